#!/usr/bin/env python3
"""Measures what neighbours cost: the latency of a quiet function alone, and beside two that spin on every processor.

    python3 benches/noisy.py [--dunlin FILE] [--seconds S] [--rounds N] [--memory MB] [--spin-memory MB]

Rounds alternate between alone and beside; the figures are medians of the rounds. Promised is a p99 of at most the larger
of three times that alone and that alone plus two ticks of the kernel's scheduler; the exit code says whether it held.
Needs `cargo build --release -p server`.
"""
import argparse
import gzip
import http.client
import os
import re
import shutil
import statistics
import sys
import tempfile
import threading
import time

from dunlin import Server, zipped

HERE = os.path.dirname(os.path.abspath(__file__))
RUNTIME = "python3.11"
SPINNING = ("first", "second")
QUIET = b"def handler(event, context):\n    return {'statusCode': 200, 'body': 'quiet'}\n"
SPIN = b"""
import os, time
def handler(event, context):
    end = time.monotonic() + event["seconds"]
    for _ in range(os.cpu_count() - 1):
        if os.fork() == 0:
            break
    while time.monotonic() < end:
        pass
    if os.getpid() != PARENT:
        os._exit(0)
PARENT = os.getpid()
"""


def tick_ms():
    """One tick of the kernel's scheduler."""
    try:
        with gzip.open("/proc/config.gz", "rt") as config:
            return 1000 / int(re.search(r"^CONFIG_HZ=(\d+)", config.read(), re.M)[1])
    except (OSError, TypeError):
        return 4.0


class Quiet:
    """Calls the quiet function again and again on one connection, with pauses."""

    def __init__(self, port, path):
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.path = path

    def call(self):
        begin = time.perf_counter()
        self.connection.request("GET", self.path)
        answer = self.connection.getresponse()
        text = answer.read()
        assert answer.status == 200 and text == b"quiet", (answer.status, text)
        return (time.perf_counter() - begin) * 1e3

    def measure(self, seconds):
        """Milliseconds of each call, sorted."""
        seen, end = [], time.perf_counter() + seconds
        while time.perf_counter() < end:
            seen.append(self.call())
            time.sleep(0.003)
        return sorted(seen)


def quantile(seen, share):
    return seen[min(len(seen) - 1, int(len(seen) * share))]


def round_of(server, quiet, seconds):
    """p50 and p99 alone, then beside two spinning functions."""
    alone = quiet.measure(seconds)
    call = lambda name: server.call("lambda", "POST", f"/2015-03-31/functions/{name}/invocations", {"seconds": seconds + 2})
    spinning = [threading.Thread(target=call, args=(name,)) for name in SPINNING]
    for thread in spinning:
        thread.start()
    while sum(one["state"] == "busy" for one in server.call("dunlin", "GET", "/_dunlin/ps")["environments"]) < 2:
        time.sleep(0.02)
    beside = quiet.measure(seconds)
    for thread in spinning:
        thread.join()
    return [quantile(seen, share) for seen in (alone, beside) for share in (0.5, 0.99)]


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--dunlin", default=os.path.join(HERE, "../target/release/dunlin"))
    options.add_argument("--seconds", type=float, default=4)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--memory", type=int, default=256)
    options.add_argument("--spin-memory", type=int, default=256)
    options = options.parse_args()
    folder = tempfile.mkdtemp(prefix="dunlin-bench-")
    os.chmod(folder, 0o755)
    server = Server(options.dunlin, folder)
    try:
        package = lambda code: zipped({"handler.py": (code, 0o644)})
        path = server.create_function("quiet", RUNTIME, "handler.handler", package(QUIET), options.memory)
        for name in SPINNING:
            server.create_function(name, RUNTIME, "handler.handler", package(SPIN), options.spin_memory)
        quiet = Quiet(server.port, path)
        quiet.measure(1)
        rounds = [round_of(server, quiet, options.seconds) for _ in range(options.rounds)]
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    alone_50, alone_99, beside_50, beside_99 = (statistics.median(column) for column in zip(*rounds, strict=True))
    bound = max(3 * alone_99, alone_99 + 2 * tick_ms())
    print(f"alone   p50 {alone_50:6.2f} ms  p99 {alone_99:6.2f} ms")
    print(f"beside  p50 {beside_50:6.2f} ms  p99 {beside_99:6.2f} ms  ({beside_99 / alone_99:.1f} times; bound {bound:.2f} ms)")
    sys.exit(0 if beside_99 <= bound else 1)


if __name__ == "__main__":
    main()
