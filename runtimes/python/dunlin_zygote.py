"""The zygote of Python guests: an interpreter that has loaded what they need, and forks one for each order.

It runs in a sandbox of its own: without a function, or with one whose dependencies it imports before it forks (`preload`),
both without egress and without credentials; or with one version of a function whose init it runs (`initialise`), as one
of its environments would. An order comes from the spawner on descriptor 4, with descriptors of a sandbox that is ready
but for its guest: this process forks, the fork enters the sandbox, makes there the system calls of the file at
descriptor 5 (`crates/sandbox/src/process/entry.rs` says what they are), and becomes the guest. Nothing here has a
capability: the sandbox's user namespace belongs to this process's user, which is what lets a fork enter it.

    order  = sandbox: u64 | namespaces: u32 | doors: u32 | doors that must open: u32 (bits) | 0: u32
             with: channel, output, the namespaces (user first), the doors (control groups)
    answer = sandbox: u64 | errno: i32 | 0: u32

Three processes make one guest: the first enters the namespaces, the second is born in the new process namespace, the
third is its child. When the second has ended, the sandbox's own first process is the guest's parent. Only the third is
a copy of the interpreter: the others share its memory and run while it stands still. As copies they took a third of the
processor time of a fork.

Invariants
  1. One thread, no socket but those two, nothing in `/tmp`: every fork finds all locks free and nothing of another's.
     Where an import or an init leaves anything of that, there is no zygote; what else an init may not leave is said in
     `dunlin_snapshot.py`.
  2. A function's own modules are imported only by a zygote of that version alone: they may count on credentials, the
     network, or on being first; and functions that bring the same packages share the other kind.
  3. A fork that cannot give up everything ends before it reads a byte of its function.
  4. What was imported is what every function with the same packages and layers would have got, if the variables that were
     looked at meanwhile are the same, and it has no module of its own by a name that was looked for, or was there (READ).

Start reading at `main`.
"""

import os

# What wants to be called when this process forks (`copy_process`): before anything is imported that may.
HOOKS = []
register_at_fork = os.register_at_fork
os.register_at_fork = lambda **hooks: (HOOKS.append(hooks), register_at_fork(**hooks))[1]

# pylint: disable=wrong-import-position
# What the runtime needs itself, also in the midst of a function, and what it has loaded on Lambda when it looks for the
# function: a function's module of such a name is not found, there as here.
import sys
import decimal  # noqa: F401
import importlib.util  # noqa: F401
import json
import logging  # noqa: F401
import select
import traceback  # noqa: F401

import dunlin_guest

RUNTIMES = {name.partition(".")[0] for name in sys.modules}

import array
import ctypes
import gc
import socket
import struct

# What most functions import; loaded once, the pages are shared by all forks.
import base64  # noqa: F401
import collections  # noqa: F401
import copy  # noqa: F401
import datetime  # noqa: F401
import functools  # noqa: F401
import hashlib  # noqa: F401
import hmac  # noqa: F401
import http.client  # noqa: F401
import io  # noqa: F401
import random
import re  # noqa: F401
import ssl  # noqa: F401
import string  # noqa: F401
import tempfile  # noqa: F401
import threading
import time
import typing  # noqa: F401
import urllib.parse  # noqa: F401
import urllib.request  # noqa: F401
import uuid  # noqa: F401

import dunlin_cache  # noqa: F401
import dunlin_logs  # noqa: F401
import dunlin_snapshot

# pylint: enable=wrong-import-position
# Of the modules above, whose hooks are known.
OWN_HOOKS = len(HOOKS)
ORDERS, ENTRY = 4, 5
ORDER = struct.Struct("<QIIII")
ANSWER = struct.Struct("<QiI")
DESCRIPTORS_MAX = 16
# Numbers of system calls: close_range has one on every architecture, setns does not.
SETNS = {"x86_64": 308, "aarch64": 268}[os.uname().machine]
CLOSE_RANGE = 436
# Flags of `clone`: the parent's memory, while it waits.
CLONE_VM, CLONE_VFORK, SIGCHLD = 0x100, 0x4000, 17
# What a short-lived process needs of the stack, with room to spare.
STACK_BYTES = 256 * 1024
# The C library's, which knows nothing of the interpreter; holds the interpreter's lock.
FORK = ctypes.PyDLL(None, use_errno=True).fork
HERE = os.path.dirname(os.path.abspath(__file__))
# Enough for an interpreter to have adapted what runs (CPython 3.11 and later).
REHEARSALS = 20
# An order for a call that waits comes sooner.
IDLE_S = 0.2


class Entry:
    """The calls by which a fork enters its sandbox, ready to be made."""

    def __init__(self, text):
        order = json.loads(text)
        self.syscall = ctypes.CDLL(None, use_errno=True).syscall
        self.syscall.restype = ctypes.c_long
        self.syscall.argtypes = [ctypes.c_long] * 7
        self.memory = ctypes.create_string_buffer(bytes.fromhex(order["memory"]))
        self.base = ctypes.addressof(self.memory)
        for at, target in order["pointers"]:
            struct.pack_into("=Q", self.memory, at, self.base + target)
        self.calls = order["calls"]

    def call(self, number, *arguments):
        """One system call; what it answers, or the negative error."""
        result = self.syscall(number, *arguments + (0,) * (6 - len(arguments)))
        return -ctypes.get_errno() if result == -1 else result

    def enter(self):
        """Makes the calls; raises when one fails that must not."""
        kept = {}
        for number, must, keep, at, arguments in self.calls:
            values = [
                value if kind == 0 else self.base + value if kind == 1 else kept[value] for kind, value in arguments
            ]
            result = self.must(number, *values) if must else self.call(number, *values)
            if keep >= 0:
                kept[keep] = result
            if at >= 0:
                struct.pack_into("=i", self.memory, at, result)

    def must(self, number, *arguments):
        """One system call that raises when it fails."""
        result = self.call(number, *arguments)
        if result < 0:
            raise OSError(-result, "system call %d" % number)
        return result


def receive(orders):
    """The next order with its descriptors; nothing when the platform is done with this zygote."""
    size = array.array("i").itemsize * DESCRIPTORS_MAX
    packet, ancillary, _, _ = orders.recvmsg(ORDER.size, socket.CMSG_SPACE(size))
    if len(packet) != ORDER.size:
        return None
    descriptors = array.array("i")
    for _, _, data in ancillary:
        descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return ORDER.unpack(packet), list(descriptors)


class Forks:
    """Makes guests, each by two processes that share this one's memory while it stands still.

    Such a process runs a function that Python calls back, on a stack of its own, and ends when that returns: by then the
    interpreter is in the state in which it was called, so that to this process it is a call like any other. The stacks lie
    below all that was ever used of this process's own, where a guest goes on with the rest of it.
    """

    run = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)

    def __init__(self, entry, orders):
        self.entry, self.orders = entry, orders
        self.order = self.descriptors = None
        # What guests go on with, where this process has run a function's init.
        self.resumed = None
        # Holds the interpreter's lock: nobody else could let it go.
        self.clone = ctypes.PyDLL(None, use_errno=True).clone
        self.clone.argtypes = [self.run, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p]
        top = lowest_of_stack() - STACK_BYTES
        self.first, self.second = (self.run(self.enter), top), (self.run(self.bear), top - STACK_BYTES)

    def make(self, order, descriptors):
        """Makes one guest and answers an errno, 0 for none."""
        self.order, self.descriptors = order, descriptors
        try:
            return self.aside(*self.first)
        except OSError as error:
            return error.errno or 1

    def aside(self, function, stack):
        """Runs a function in a process of its own, and answers its errno."""
        pid = self.clone(function, stack, CLONE_VM | CLONE_VFORK | SIGCHLD, None)
        if pid < 0:
            raise OSError(ctypes.get_errno(), "clone")
        _, status = os.waitpid(pid, 0)
        return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 255

    def enter(self, _):
        """The first: enters the control groups and the namespaces."""
        _, namespaces, doors, must, _ = self.order
        spaces = self.descriptors[2 : 2 + namespaces]
        groups = self.descriptors[2 + namespaces : 2 + namespaces + doors]
        try:
            for index, door in enumerate(groups):
                try:
                    os.write(door, b"0")
                except OSError:
                    if must >> index & 1:
                        raise
            for space in spaces:
                self.entry.must(SETNS, space)
            return self.aside(*self.second)
        except OSError as error:
            return error.errno or 1

    def bear(self, _):
        """The second: bears the guest, which never returns."""
        try:
            if copy_process() == 0:
                # Its descriptor is about to be closed, and may be another file's when this object ends.
                self.orders.detach()
                become_guest(self.entry, self.descriptors, self.resumed)
        except OSError as error:
            return error.errno or 1
        return 0


def copy_process():
    """Forks; 0 in the copy. `os.fork` makes every lock anew and calls hooks: for a process that has one thread and holds no lock,
    that was a sixth of what a guest takes until its first answer, as it writes to pages that no guest needs else. What is left
    to do is what `random` and `threading` want. Where a package or a function's init has hooks as well, everything is done."""
    if len(HOOKS) != OWN_HOOKS:
        return os.fork()
    pid = FORK()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "fork")
    if pid == 0:
        random.seed()
        # Its number differs in each process.
        threading.main_thread()._set_native_id()  # pylint: disable=protected-access
    return pid


def lowest_of_stack():
    """Below which address nothing of this process's stack was ever used."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        stack = next(line for line in maps if line.rstrip().endswith("[stack]"))
    return int(stack.partition("-")[0], 16)


def become_guest(entry, descriptors, resumed):
    """Gives up everything, serves until the platform is done with the guest, and ends as any other interpreter does. It goes on
    with what `initialise` answered, if this zygote is a function's."""
    status = 255
    try:
        give_up(entry, descriptors)
        status = 0
        if resumed:
            dunlin_guest.resume(*resumed)
        else:
            dunlin_guest.main(rehearse_if_idle)
    except SystemExit as error:
        status = exit_status(error.code)
    except BaseException:  # pylint: disable=broad-except
        status = status or 1
        traceback.print_exc()
    finally:
        # The caller's caller is of another process: there is nothing to return to.
        ctypes.pythonapi.Py_Exit(status)


def exit_status(code):
    """The status that an interpreter ends with: `sys.exit` takes anything."""
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def give_up(entry, descriptors):
    """Gives up everything that a guest does not have."""
    for source, target in zip((descriptors[0], descriptors[1], descriptors[1]), (dunlin_guest.CHANNEL, 1, 2)):
        os.dup2(source, target)
    entry.must(CLOSE_RANGE, 4, 0x7FFFFFFF)
    os.setsid()
    os.umask(0o022)
    os.chdir("/var/task")
    entry.enter()
    gc.enable()


def initialise(order):
    """Runs a function's init and its hooks before the snapshot; what its forks go on with. Where that fails, or leaves what
    cannot be forked, the process ends and says why."""
    known = dunlin_snapshot.descriptors()
    dunlin_guest.prepare({"environment": {}, "root": order["root"], "caches": order.get("caches")})
    logs = dunlin_guest.LOGS
    logs.install()
    handler = dunlin_guest.load({"handler": order["handler"]}, logs)
    try:
        dunlin_snapshot.run_before_snapshot()
    except Exception as error:  # pylint: disable=broad-except
        dunlin_guest.fail_init(error, logs)
    # Before the look at what is left: a collection may end some of it.
    gc.collect()
    dunlin_guest.flush()
    reason, handles = dunlin_snapshot.obstacle(known)
    if reason:
        dunlin_guest.send(dunlin_guest.UNFIT, reason.encode())
        sys.exit(1)
    return handler, logs, handles, gc.isenabled()


def preload(order):
    """Imports the packages of others that the handler's module imports, as far as that goes."""
    # Before the function's folder is on the path, which may have one of the name.
    import ast  # noqa: F401
    import importlib

    note_what_is_ahead()
    root, handler = order["root"], order["handler"]
    dunlin_guest.prepare({"environment": {}, "root": root, "caches": order.get("caches")})
    own = own_names(root) - set(order["modules"])
    guard = Guard(own)
    installed = (installed_names(root) | set(order["modules"])) - own
    wanted = [name for name in imported_names(root, handler) if name.partition(".")[0] in installed]
    before = mapped_files()
    sys.meta_path.insert(0, guard)
    watched = Watched.begin()
    for name in wanted:
        try:
            importlib.import_module(name)
        except BaseException:  # pylint: disable=broad-except
            # The function's own import will fail as well, or find what this one lacked.
            continue
    sys.meta_path.remove(guard)
    read = watched.end()
    if guard.asked & own or not is_forkable():
        sys.exit(1)
    unseen = any(may_look_unseen(file) for file in mapped_files() - before)
    looked_at = {"variables": None if unseen else read, "modules": sorted(guard.asked | dunlin_guest.AHEAD)}
    dunlin_guest.send(dunlin_guest.READ, json.dumps(looked_at).encode())


class Guard:
    """Keeps the function's own modules out, and remembers which modules were asked for."""

    def __init__(self, names):
        self.names = names
        self.asked = set()

    def find_spec(self, name, path=None, target=None):
        """The import system's question."""
        if path is None:
            self.asked.add(name)
            if name in self.names:
                raise ImportError("a function's own module is not imported ahead")
        return None


class Watched(type(os.environ)):
    """Variables that remember which of them were looked at."""

    @classmethod
    def begin(cls):
        """Watches this process's."""
        cls.before = type(os.environ)
        cls.names, cls.whole = set(), False
        for variables in (os.environ, os.environb):
            variables.__class__ = cls
        return cls

    @classmethod
    def end(cls):
        """The names, or None where all were looked at."""
        for variables in (os.environ, os.environb):
            variables.__class__ = cls.before
        return None if cls.whole else sorted(cls.names)

    def __getitem__(self, key):
        try:
            Watched.names.add(os.fsdecode(key))
        except TypeError:
            pass
        return super().__getitem__(key)

    def __iter__(self):
        Watched.whole = True
        return super().__iter__()

    def __len__(self):
        Watched.whole = True
        return super().__len__()

    def __repr__(self):
        Watched.whole = True
        return super().__repr__()


def mapped_files():
    """The files that are in this process's memory: programs and libraries."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
        lines = [line.split(maxsplit=5) for line in maps]
    return {line[5].strip() for line in lines if len(line) == 6 and line[5].startswith("/")}


def may_look_unseen(file):
    """Whether a library could look at a function's variables by itself: one that names the means, which end so."""
    if os.path.basename(os.path.dirname(file)) == "lib-dynload":
        # The interpreter's own know of none that a function would have.
        return False
    try:
        with open(file, "rb") as library:
            content = library.read()
    except OSError:
        return True
    return b"getenv\0" in content or b"environ\0" in content


def own_names(root):
    """The names of all modules that a package's folder holds, whoever brought them."""
    return {entry.partition(".")[0] for entry in os.listdir(root) if not entry.endswith((".dist-info", ".egg-info"))}


def installed_names(root):
    """What installers have put on the module path outside of a folder: top-level names, by their records."""
    names = set()
    for folder in sys.path:
        if folder == root:
            continue
        try:
            entries = os.listdir(folder)
        except OSError:
            continue
        for entry in entries:
            if entry.endswith(".dist-info"):
                names.update(recorded_names(os.path.join(folder, entry, "RECORD")))
    return names


def recorded_names(record):
    """The first parts of the paths in an installer's record."""
    try:
        with open(record, encoding="utf-8") as file:
            firsts = {line.split(",")[0].split("/")[0] for line in file}
    except (OSError, ValueError):
        return set()
    return {first[:-3] if first.endswith(".py") else first for first in firsts}


def imported_names(root, handler):
    """The modules that the handler's module imports when it is loaded, in their order."""
    import ast

    path = os.path.join(root, *handler.rpartition(".")[0].replace("/", ".").split("."))
    tree = None
    for file in (path + ".py", os.path.join(path, "__init__.py")):
        try:
            with open(file, "rb") as source:
                tree = ast.parse(source.read())
            break
        except (OSError, SyntaxError, ValueError):
            continue
    names = []
    todo = list(reversed(tree.body)) if tree else []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)):
            todo.extend(reversed([child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]))
    return names


def is_forkable():
    """Whether nothing is left of the imports that a fork would share, or miss."""
    sockets = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            sockets += os.readlink("/proc/self/fd/" + descriptor).startswith("socket:")
        except OSError:
            continue
    return len(os.listdir("/proc/self/task")) == 1 and sockets <= 2 and not os.listdir("/tmp")


class Script:
    """What a guest reads in a rehearsal."""

    def __init__(self, frames):
        self.frames = iter(frames)

    def frame(self):
        """The next frame."""
        return next(self.frames, None)


def rehearse(times):
    """Does what every guest does from its order to its first answer. A zygote does it before it forks, so that what is made once
    is there and the interpreter has adapted the code that runs: its forks write to fewer of the pages that they share."""
    folder, paths, send = os.getcwd(), list(sys.path), dunlin_guest.send
    order = {"root": HERE, "handler": "dunlin_rehearsal.handler", "environment": {"_DUNLIN_REHEARSAL": "1"}}
    meta = json.dumps({"requestId": "", "deadlineMs": 0, "traceId": "0"}).encode()
    call = len(meta).to_bytes(4, "little") + meta + b'{"a": [1, 2.5, null, true, "\\u00e9"]}'
    sent = []
    dunlin_guest.send = lambda kind, *_: sent.append(kind)
    try:
        for _ in range(times):
            dunlin_guest.load_and_serve(order, Script([(dunlin_guest.INVOKE, memoryview(call))]))
            del sys.modules["dunlin_rehearsal"]
    finally:
        dunlin_guest.send = send
        dunlin_guest.LOGS.request_id = None
        for name in ("_DUNLIN_REHEARSAL", dunlin_guest.TRACE_ID):
            os.environ.pop(name, None)
        sys.path[:] = paths
        os.chdir(folder)
    if set(sent) != {dunlin_guest.READY, dunlin_guest.RESPONSE}:
        raise RuntimeError("a rehearsal was answered by frames of the kinds %s" % sent)


def rehearse_if_idle():
    """Rehearses in a guest that nobody waits for: the pages that a call writes to become its own before one comes. A guest that
    was forked for a call that waits has its order before that."""
    if not select.select([dunlin_guest.CHANNEL], [], [], IDLE_S)[0]:
        rehearse(1)


def note_what_is_ahead():
    """Has the guest's side know what this process has loaded that a function's own module of the name goes before."""
    for name in {name.partition(".")[0] for name in sys.modules} - RUNTIMES:
        origin = getattr(getattr(sys.modules[name], "__spec__", None), "origin", None)
        # Others are the interpreter's own, found before any path is looked at, or of this folder.
        if origin and os.path.dirname(origin) != HERE and origin not in ("built-in", "frozen"):
            dunlin_guest.AHEAD.add(name)


def set_up():
    """Has ready what the guest's side makes once."""
    note_what_is_ahead()
    dunlin_guest.define_exit()
    dunlin_guest.LOGS = dunlin_guest.Logs()
    dunlin_guest.LOGS.install()
    traceback.format_list([])
    time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    # Small functions come as source. What the compiler makes once, some hundred types, would be a quarter of what a guest takes.
    compile("", "", "exec")
    rehearse(REHEARSALS)


def main():
    """Gets ready, then forks on order."""
    with os.fdopen(ENTRY, "rb") as file:
        entry = Entry(file.read())
    orders = socket.socket(fileno=ORDERS)
    forks = Forks(entry, orders)
    set_up()
    frame = dunlin_guest.Reader().frame()
    if frame is None:
        return
    order = json.loads(bytes(frame[1]))
    if order.get("snapshot"):
        forks.resumed = initialise(order)
    elif order:
        preload(order)
    os.register_at_fork = register_at_fork
    gc.collect()
    gc.freeze()
    # A collection would write to every object's header, and so copy the pages that all share.
    gc.disable()
    dunlin_guest.send(dunlin_guest.BOOTED)
    while True:
        received = receive(orders)
        if received is None:
            return
        order, descriptors = received
        errno = forks.make(order, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        orders.sendall(ANSWER.pack(order[0], errno, 0))
