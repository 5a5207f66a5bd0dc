"""A function that goes on from a snapshot: its hooks, whether forks of its process can, and what each fork renews.

The snapshot is a zygote (`dunlin_zygote.py`) that has run the init of one version of one function. A fork has all of its
memory and nothing else of it: `/tmp`, processes, threads and descriptors stay behind. So an init that left more than
memory is not forked (`obstacle`), apart from descriptors that a fork can have of its own (`handle`): files that nobody can
write are opened again, and connections are there but closed, as they would be after a long time.

Start reading at `obstacle` and `restore`.
"""

import os
import signal
import stat
import sys

HOOKS = "snapshot_restore_py"
# Nothing that a function could change is below these, and each of its environments finds the same there.
UNCHANGING = ("/var/task/", "/opt/", "/var/runtime/", "/usr/", "/lib/", "/lib64/", "/etc/")
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


# Hooks


def run_before_snapshot():
    """Runs what the function registered, the last first."""
    registered = sys.modules[HOOKS].get_before_snapshot() if HOOKS in sys.modules else []
    while registered:
        function, args, kwargs = registered.pop()
        function(*args, **kwargs)


def run_after_restore():
    """Runs what the function registered, in its order."""
    for function, args, kwargs in sys.modules[HOOKS].get_after_restore() if HOOKS in sys.modules else ():
        function(*args, **kwargs)


# Before the fork


def descriptors():
    """The open descriptors of this process."""
    listed = [int(name) for name in os.listdir("/proc/self/fd")]
    # That of the listing is among them, and closed by now.
    return {descriptor for descriptor in listed if is_open(descriptor)}


def is_open(descriptor):
    """Whether there is such a descriptor."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def obstacle(known):
    """Why a process that had the descriptors `known` before its init cannot be forked after it; with it, or instead of it,
    what to do in a fork about the descriptors that came since (`reopen`)."""
    threads = len(os.listdir("/proc/self/task")) - 1
    if threads:
        return "its init left %s running" % counted(threads, "thread", thread_names()), []
    others = [name for name in os.listdir("/proc") if name.isdigit() and int(name) not in (1, os.getpid())]
    if others:
        return "its init left %s running" % counted(len(others), "process", [command(pid) for pid in others]), []
    files = os.listdir("/tmp")
    if files:
        return "its init left files in /tmp: %s" % shown(files), []
    if any(signal.getitimer(timer)[0] for timer in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)):
        return "its init left a timer running", []
    if shares_memory():
        return "its init left memory that processes share", []
    handles = []
    for descriptor in sorted(descriptors() - known):
        found = handle(descriptor)
        if found is None:
            return "its init left something open: %s" % os.readlink("/proc/self/fd/%d" % descriptor), []
        handles.append(found)
    return None, handles


def counted(number, noun, names):
    """`2 threads (a, b)`"""
    plural = {"thread": "threads", "process": "processes"}
    words = "a %s" % noun if number == 1 else "%d %s" % (number, plural[noun])
    return "%s (%s)" % (words, shown(names)) if names else words


def shown(names):
    """A few of the names."""
    names = sorted(names)
    return ", ".join(names[:5] + ["…"] * (len(names) > 5))


def thread_names():
    """Those of Python's threads but the first."""
    threading = sys.modules.get("threading")
    main = threading and threading.main_thread()
    return [thread.name for thread in threading.enumerate() if thread is not main] if threading else []


def command(pid):
    """What a process is called."""
    try:
        with open("/proc/%s/comm" % pid, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return pid


def shares_memory():
    """Whether something in this process's memory would be the same memory in a fork."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        return any(line.split(maxsplit=2)[1][1::2] == "ws" for line in maps)


def handle(descriptor):
    """How a fork gets one like this: number, path, flags and place of a file, or the number alone of what is to be dead;
    nothing if it cannot have one."""
    about = os.fstat(descriptor)
    path = os.readlink("/proc/self/fd/%d" % descriptor)
    if stat.S_ISSOCK(about.st_mode):
        return (descriptor, None, 0, 0) if is_connection(descriptor) else None
    flags = open_flags(descriptor)
    if stat.S_ISREG(about.st_mode) and path.startswith(UNCHANGING) and flags & os.O_ACCMODE == os.O_RDONLY:
        return descriptor, path, flags, os.lseek(descriptor, 0, os.SEEK_CUR)
    if stat.S_ISCHR(about.st_mode) and path in DEVICES:
        return descriptor, path, flags, 0
    return None


def is_connection(descriptor):
    """Whether a socket is an end of a TCP connection."""
    # The function may have a `socket` of its own.
    import _socket

    end = _socket.socket(fileno=os.dup(descriptor))
    try:
        inet = end.family in (_socket.AF_INET, _socket.AF_INET6) and end.type == _socket.SOCK_STREAM
        return inet and not end.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
    finally:
        end.close()


def open_flags(descriptor):
    """The flags that a file was opened with."""
    with open("/proc/self/fdinfo/%d" % descriptor, encoding="utf-8") as info:
        fields = dict(line.split(":", 1) for line in info if ":" in line)
    return int(fields["flags"], 8)


# In the fork


def restore(variables, handles):
    """Makes this fork an environment of its own: variables, descriptors, and random numbers that no other has."""
    os.environ.update(variables)
    for one in handles:
        reopen(*one)
    if is_librarys("random"):
        sys.modules["random"].seed()
    if is_librarys("tempfile"):
        sys.modules["tempfile"]._name_sequence = None
    if "_ssl" in sys.modules:
        sys.modules["_ssl"].RAND_add(os.urandom(32), 32.0)
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()


def is_librarys(name):
    """Whether a loaded module is the standard library's, and not the function's by the same name."""
    file = getattr(sys.modules.get(name), "__file__", None)
    return file is not None and os.path.dirname(file) == os.path.dirname(os.__file__)


def reopen(descriptor, path, flags, place):
    """Puts a file of its own, or a connection that has ended, in a descriptor's place."""
    if path is None:
        import _socket

        dead, other = _socket.socketpair()
        other.close()
        source = dead.detach()
    else:
        source = os.open(path, flags | os.O_CLOEXEC)
        if place:
            os.lseek(source, place, os.SEEK_SET)
    if source != descriptor:
        os.dup2(source, descriptor, inheritable=False)
        os.close(source)
