"""What a hostile Python function does. Outside a sandbox the same file is the control: `main.py ATTEMPT JSON`.

Every attempt answers `[did, detail]`. Attempts that may spoil the process run in a child of it.
"""

import ctypes
import errno
import http.client
import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request

NEW_USER, NEW_MOUNTS, NEW_NET = 0x1000_0000, 0x0002_0000, 0x4000_0000
libc = None


def handler(event, context):
    return run(event["attempt"], event)


def run(name, event):
    global libc
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        return [True, str(globals()["attempt_" + name](event))]
    except OSError as error:
        return [False, f"{errno.errorcode.get(error.errno, '')} {error}"]


def check(result):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def in_child(action):
    """Runs an attempt in a child and answers or raises as it did."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            outcome = ["did", str(action())]
        except OSError as error:
            outcome = ["failed", error.errno or 0]
        os.write(theirs, json.dumps(outcome).encode())
        os._exit(0)
    os.close(theirs)
    text = os.read(ours, 65536)
    os.close(ours)
    os.waitpid(pid, 0)
    if not text:
        raise OSError(0, "the child was killed")
    kind, detail = json.loads(text)
    if kind == "failed":
        raise OSError(detail, os.strerror(detail))
    return detail


def attempt_nothing(event):
    return "nothing"


def attempt_read(event):
    with open(event["path"], "rb") as file:
        return file.read(64)


def attempt_write(event):
    with open(event["path"], "ab") as file:
        file.write(b"")
    return "opened for writing"


def attempt_list(event):
    return os.listdir(event["path"])


def attempt_names(event):
    return json.dumps(os.listdir(event["path"]))


def attempt_remount(event):
    def action():
        check(libc.unshare(NEW_USER | NEW_MOUNTS))
        return check(libc.mount(b"x", b"/tmp", b"tmpfs", 0, None))

    return in_child(action)


def attempt_user_namespace(event):
    return in_child(lambda: check(libc.unshare(NEW_USER)))


def attempt_ptrace(event):
    def action():
        child = os.fork()
        if child == 0:
            signal.pause()
        try:
            # PTRACE_SEIZE, which needs no stop.
            return check(libc.ptrace(ctypes.c_long(0x4206), child, None, None))
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    return in_child(action)


def attempt_raw_socket(event):
    def action():
        try:
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
        except OSError:
            check(libc.unshare(NEW_USER | NEW_NET))
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close()
        socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
        return "raw"

    return in_child(action)


def attempt_signal(event):
    os.kill(event["pid"], 0)
    return "found"


def attempt_become_root(event):
    return in_child(lambda: os.setuid(0))


def attempt_device(event):
    path = os.path.join(event["folder"], f"device-{os.getpid()}")
    os.mknod(path, 0o20666, os.makedev(1, 3))
    try:
        os.close(os.open(path, os.O_RDWR))
    finally:
        os.unlink(path)
    return "opened"


def attempt_fork_bomb(event):
    children, failure = [], None
    while len(children) < event["processes"]:
        try:
            pid = os.fork()
        except OSError as error:
            failure = error
            break
        if pid == 0:
            signal.pause()
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    if failure:
        raise failure
    return len(children)


def attempt_memory_bomb(event):
    held = [bytearray(os.urandom(4096)) * 256 for _ in range(event["megabytes"])]
    # A watcher needs a moment; in vain where nothing watches.
    time.sleep(0.3)
    return len(held)


def attempt_memory_bomb_in_children(event):
    """Many children that are each small."""
    children = []
    for _ in range(8):
        pid = os.fork()
        if pid == 0:
            held = bytearray(os.urandom(4096)) * 256 * (event["megabytes"] // 8)
            time.sleep(1)
            os._exit(0 if held else 1)
        children.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in children):
        raise OSError(errno.ENOMEM, "children were killed")
    return len(children)


def attempt_fill(event):
    """Writes until it may not, and says how much that was."""
    path, piece, written = os.path.join(event["folder"], "fill"), b"\1" * (1 << 20), 0
    file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        while written < event["megabytes"]:
            os.write(file, piece)
            written += 1
    except OSError as error:
        raise OSError(error.errno, f"after {written} MiB") from error
    finally:
        os.close(file)
        os.unlink(path)
    return written


def attempt_connect(event):
    """Connects and reads what the host's listener says to everybody."""
    with socket.create_connection((event["host"], event["port"]), 2) as connection:
        connection.settimeout(2)
        greeting = connection.recv(64)
    if b"host" not in greeting:
        raise OSError(errno.ECONNRESET, f"accepted by somebody else: {greeting!r}")
    return greeting


def attempt_datagram(event):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(1)
        sender.sendto(b"?", (event["host"], event["port"]))
        return sender.recv(64)


def attempt_http(event):
    connection = http.client.HTTPConnection(event["host"], event.get("port", 80), timeout=3)
    try:
        connection.request("GET", event["path"], headers=event.get("headers", {}))
        answer = connection.getresponse()
        text = answer.read(2000)
    except http.client.HTTPException as error:
        raise OSError(errno.EPROTO, repr(error)) from error
    if answer.status != 200:
        raise OSError(errno.EACCES, f"{answer.status} {text[:200]!r}")
    return text


def attempt_follow(event):
    """Follows redirects from where it may go to where it may not."""
    try:
        with urllib.request.urlopen(event["url"], timeout=3) as answer:
            text = answer.read(64)
    except urllib.error.HTTPError as error:
        raise OSError(errno.EACCES, f"{error.code}") from error
    except http.client.HTTPException as error:
        raise OSError(errno.EPROTO, repr(error)) from error
    if b"inner" not in text:
        raise OSError(errno.ECONNRESET, f"answered by somebody else: {text!r}")
    return text


def attempt_leak(event):
    """Opens connections to the platform and files until no more can be had, and keeps them all."""
    held, failure = [], None
    while len(held) < event["descriptors"]:
        try:
            if len(held) % 2:
                held.append(open("/dev/null", "rb"))
            else:
                held.append(socket.create_connection((event["host"], event["port"]), 3))
        except OSError as error:
            failure = error
            break
    time.sleep(event.get("seconds", 0))
    count = len(held)
    for one in held:
        one.close()
    if failure:
        raise OSError(failure.errno, f"after {count}")
    return count


def attempt_abstract_socket(event):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("\0" + event["name"])
    return "connected"


def attempt_listen_abstract(event):
    """Is the other side: keeps listening as long as the environment lives."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind("\0" + event["name"])
    listener.listen()
    globals().setdefault("listeners", []).append(listener)
    return "listening"


def attempt_flood(event):
    line = "x" * 999 + "\n"
    for _ in range(event["megabytes"] * 1000):
        sys.stdout.write(line)
    return event["megabytes"]


def attempt_daemon(event):
    """Leaves a process behind that ignores signals and lets go of its parent; answers where, as the host names it too."""
    if os.fork() == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork():
            os._exit(0)
        while True:
            time.sleep(1000)
    return os.readlink("/proc/self/ns/pid")


def attempt_spin(event):
    while True:
        pass


def attempt_foreign_variables(event):
    """What the host's processes have in their environment and the function should not."""
    with open(f"/proc/{event['pid']}/environ", "rb") as file:
        return file.read(64)


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1], json.loads(sys.argv[2]))))
