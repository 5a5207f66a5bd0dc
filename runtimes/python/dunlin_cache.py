"""Bytecode of a package's modules, made once for each package and interpreter, and used by every start after that.

The platform keeps a package where nobody can write, so that an interpreter would compile its modules anew at each start.
`make` compiles them in a sandbox that holds the package alone and runs none of it: what comes out follows from the
package, so it may serve whoever has the same one. `use` has the import system look there first. A module whose source
is not the one that was compiled, and a cache that is not whole, are passed over: they cost time and nothing else.

    cache = MAGIC | the interpreter's magic number: 4 bytes | index length: u32 | length of all: u64 | index | code
            | what the platform adds
    index = marshal of {path below the root: (mtime in ns, size, offset, length)}

Start reading at `make` and `use`.
"""

import importlib.machinery as machinery
import importlib.util
import marshal
import os
import struct
import sys

MAGIC = b"dunlin 1"
HEAD = struct.Struct("<8s4sIQ")
# A larger source is data more than code; all of a cache is bounded by the platform (`code_cache.rs`).
SOURCE_BYTES_MAX = 1 << 20
CODE_BYTES_MAX = 60 << 20
CHUNK_BYTES = 1 << 20
# Of the pyc format (PEP 552): bytecode that goes by its source's hash, or by nothing.
HASH_BASED = 1


def make(order, send):
    """Compiles the modules below `order["root"]` as if that were `order["as"]`; gives the cache to `send` in pieces."""
    import warnings

    warnings.simplefilter("ignore")
    os.nice(19)
    index, codes, offset = {}, [], 0
    for path in sources(order["root"]):
        name = path[len(order["root"]) + 1 :]
        made = compiled(path, order["as"] + "/" + name)
        if made is None:
            continue
        times, code = made
        if offset + len(code) > CODE_BYTES_MAX:
            break
        index[name] = times + (offset, len(code))
        codes.append(code)
        offset += len(code)
    text = marshal.dumps(index)
    whole = HEAD.size + len(text) + offset
    data = b"".join([HEAD.pack(MAGIC, importlib.util.MAGIC_NUMBER, len(text), whole), text] + codes)
    for at in range(0, len(data), CHUNK_BYTES):
        send(data[at : at + CHUNK_BYTES])


def sources(root):
    """The source files below a folder, in an order that is always the same."""
    for above, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".py"):
                yield os.path.join(above, name)


def compiled(path, seen_as):
    """A source's time and size, and its code; nothing where there is nothing to gain."""
    try:
        if brings_bytecode(path) or os.path.islink(path):
            return None
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            if about.st_size > SOURCE_BYTES_MAX:
                return None
            source = file.read()
        code = compile(source, seen_as, "exec", dont_inherit=True, optimize=0)
        return (about.st_mtime_ns, about.st_size), marshal.dumps(code)
    except Exception:  # pylint: disable=broad-except
        # Code for another version, a template that only looks like a module: whoever imports it is told.
        return None


def brings_bytecode(path):
    """Whether the package has bytecode for this interpreter that does not go by the time of its source."""
    try:
        with open(importlib.util.cache_from_source(path), "rb") as file:
            head = file.read(8)
    except (OSError, NotImplementedError):
        return False
    return head[:4] == importlib.util.MAGIC_NUMBER and len(head) == 8 and head[4] & HASH_BASED != 0


class Cache:
    """One package's bytecode."""

    def __init__(self, file, root):
        """Reads the index; `ValueError` or `OSError` where there is none for this interpreter."""
        self.file = file
        self.root = root + "/"
        with open(file, "rb") as opened:
            head = opened.read(HEAD.size)
            if len(head) < HEAD.size:
                raise ValueError("no cache")
            magic, number, length, whole = HEAD.unpack(head)
            right = magic == MAGIC and number == importlib.util.MAGIC_NUMBER
            if not right or whole > os.fstat(opened.fileno()).st_size:
                raise ValueError("another interpreter's cache, or a part of one")
            self.index = marshal.loads(opened.read(length))
            self.codes_at = HEAD.size + length

    def code(self, path, about):
        """The code of a source file; nothing where this is not what was compiled."""
        entry = self.index.get(path[len(self.root) :]) if path.startswith(self.root) else None
        if entry is None or entry[:2] != (about.st_mtime_ns, about.st_size):
            return None
        # Opened for each module: a fork of this process has given up its descriptors.
        with open(self.file, "rb", buffering=0) as opened:
            return marshal.loads(os.pread(opened.fileno(), entry[3], self.codes_at + entry[2]))


# Later ones first: a layer may replace what an earlier one has.
CACHES = []


class CachedLoader(machinery.SourceFileLoader):
    """Loads modules as the interpreter does, with the platform's bytecode where it has some."""

    def get_code(self, fullname):
        path = self.get_filename(fullname)
        try:
            about = os.stat(path)
            for cache in CACHES:
                code = cache.code(path, about)
                if code is not None:
                    return code
        except (OSError, ValueError, EOFError, TypeError):
            pass
        return super().get_code(fullname)


def finder_for(folder):
    """The import system's question: who finds modules in this folder?"""
    if not any(folder == cache.root[:-1] or folder.startswith(cache.root) for cache in CACHES):
        raise ImportError
    return machinery.FileFinder(
        folder,
        (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
        (CachedLoader, machinery.SOURCE_SUFFIXES),
        (machinery.SourcelessFileLoader, machinery.BYTECODE_SUFFIXES),
    )


def use(places):
    """Has modules below each place's root taken from its file: [(file, root)], later ones first in doubt."""
    CACHES.clear()
    if sys.flags.optimize:
        # The code was made with assertions and docstrings.
        return
    for file, root in reversed(places):
        try:
            CACHES.append(Cache(file, root))
        except (OSError, ValueError, EOFError, TypeError):
            continue
    if CACHES and finder_for not in sys.path_hooks:
        sys.path_hooks.insert(0, finder_for)
