"""Code packages of the measured functions, the runtimes of this host, and peers that come from the registries.

What is installed is kept below `.cache/peers` and used again.
"""
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time

from dunlin import zipped

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CACHE = os.path.join(ROOT, ".cache", "peers")


def real_python():
    """The interpreter itself: version managers put a slow shell script before it."""
    return os.path.realpath(sys.executable)


def node_runtime():
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout
    return f"nodejs{version[1:].split('.')[0]}.x"


def python_runtime():
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def node_package(salt=None):
    return packaged("node", "index.js", salt)


def python_package(salt=None):
    return packaged("python", "handler.py", salt)


def packaged(folder, name, salt):
    with open(os.path.join(HERE, "functions", folder, name), "rb") as source:
        return zipped({name: (source.read(), 0o644), **salted(salt)})


def sleeping_package(language, salt=None):
    """A handler that waits 300 ms, or as long as the query's `ms` says."""
    name = {"node": "index.js", "python": "handler.py"}[language]
    return packaged(f"{language}-sleep", name, salt)


def salted(salt):
    """A file that makes a package one that the server has not seen."""
    return {} if salt is None else {"salt.txt": (f"{salt} {time.time_ns()}".encode(), 0o644)}


@functools.cache
def boto3_folder():
    """The function with boto3 and requests, and what it needs, installed once."""
    source = os.path.join(HERE, "functions", "python-boto3")
    folder = installed("boto3", [real_python(), "-m", "pip", "install", "-q", "-r", os.path.join(source, "requirements.txt"), "--target"])
    for module in ("handler.py", "imports.py"):
        shutil.copy(os.path.join(source, module), folder)
    return folder


def boto3_package(salt=None):
    files = {}
    for above, _, names in os.walk(boto3_folder()):
        for name in names:
            path = os.path.join(above, name)
            with open(path, "rb") as source:
                files[os.path.relpath(path, boto3_folder())] = (source.read(), 0o644)
    return zipped({**files, **salted(salt)})


def has_java():
    """Whether this host can compile and run Java, and Maven can bring what that needs."""
    return shutil.which("javac") is not None and shutil.which("mvn") is not None


@functools.cache
def java_folder():
    """The classes of the handler and of its bare server, with the jars that they need, made once."""
    pom = os.path.join(ROOT, "tests", "java", "pom.xml")
    sources = [os.path.join(HERE, "functions", "java", "Hello.java"), os.path.join(HERE, "peers", "HttpJava.java")]
    made = hashlib.sha256(b"".join(open(source, "rb").read() for source in sources)).hexdigest()[:12]
    script = (
        f'mvn -q -B -f {shlex.quote(pom)} dependency:copy-dependencies -DincludeScope=runtime "-DoutputDirectory=$1" >&2 && '
        f'javac --release 11 -cp "$1/*" -d "$1" {shlex.join(sources)}'
    )
    return installed(f"java-{made}", ["sh", "-c", script, "java"])


def java_package(salt=None):
    folder = java_folder()
    files = {}
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        with open(path, "rb") as source:
            files[name if name.endswith(".class") else f"lib/{name}"] = (source.read(), 0o644)
    return zipped({**files, **salted(salt)})


def native_program(bench):
    """The custom runtime that was built beside the load generator; it needs the host's C library."""
    return os.path.join(os.path.dirname(bench.options.load), "bootstrap")


@functools.cache
def static_program():
    """The same as one file that needs no library, as programs in Go are and those in Rust that are built so."""
    source = os.path.join(HERE, "load", "src", "bin", "bootstrap.rs")
    made = hashlib.sha256(open(source, "rb").read()).hexdigest()[:12]
    options = "--edition 2024 -O -C strip=symbols -C target-feature=+crt-static"
    script = f'rustc {options} -o "$1/bootstrap" {shlex.quote(source)} >&2'
    return os.path.join(installed(f"static-{made}", ["sh", "-c", script, "rustc"]), "bootstrap")


def native_package(program, salt=None):
    with open(program, "rb") as built:
        return zipped({"bootstrap": (built.read(), 0o755), **salted(salt)})


def installed(name, command):
    """The folder of a peer, made by the command if it is not there yet; the folder is the command's last argument."""
    folder = os.path.join(CACHE, name)
    if not os.path.exists(folder):
        making = folder + ".making"
        shutil.rmtree(making, ignore_errors=True)
        os.makedirs(making)
        subprocess.run([*command, making], check=True, stdout=subprocess.DEVNULL)
        os.rename(making, folder)
    return folder


# Peers: the command that serves the same answer at a port


def node_peer(port):
    return ["node", os.path.join(HERE, "peers", "http_node.js"), os.path.join(HERE, "functions", "node", "index.js"), str(port)]


def front_peer(bench, language, ahead=0):
    """A process of a language for each processor, behind the least HTTP server that hands them events, so many of them ahead."""
    program = os.path.join(os.path.dirname(bench.options.load), "front")
    function = os.path.join(HERE, "functions", language)
    loop = {
        "node": ["node", os.path.join(HERE, "peers", "loop_node.js"), os.path.join(function, "index.js")],
        "python": [real_python(), "-S", os.path.join(HERE, "peers", "loop_python.py"), function],
    }[language]
    return lambda port: [program, str(port), str(os.cpu_count()), str(ahead), *loop]


def python_peer(port):
    return [real_python(), os.path.join(HERE, "peers", "http_python.py"), os.path.join(HERE, "functions", "python"), str(port)]


def java_peer(port):
    return ["java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", f"{java_folder()}:{java_folder()}/*", "HttpJava", str(port)]


def boto3_peer(port, module="handler"):
    return [real_python(), os.path.join(HERE, "peers", "http_python.py"), boto3_folder(), str(port), module]


def imports_peer(port):
    return boto3_peer(port, "imports")


def uvicorn_peer(port):
    """One uvicorn process at its best: uvloop and httptools, no access log."""
    folder = installed("uvicorn", [real_python(), "-m", "pip", "install", "-q", "uvicorn", "uvloop", "httptools", "starlette", "--target"])
    return [real_python(), os.path.join(HERE, "peers", "asgi_python.py"), folder, os.path.join(HERE, "functions", "python"), str(port)]


def workerd_peer(port):
    folder = installed("workerd", ["npm", "install", "--silent", "--no-fund", "--no-audit", "workerd", "--prefix"])
    config = os.path.join(HERE, "peers", "workerd.capnp")
    binary = os.path.join(folder, "node_modules", "workerd", "bin", "workerd")
    return [binary, "serve", config, "--socket-addr", f"http=127.0.0.1:{port}"]
