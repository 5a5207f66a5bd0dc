"""What neighbours cost: the latency of a quiet function alone, and beside two that spin on every processor.

Rounds alternate between alone and beside; the figures are medians of the rounds. Promised is a p99 of at most the larger
of three times that alone and that alone plus two ticks of the kernel's scheduler.
"""
import gzip
import http.client
import re
import statistics
import threading
import time

from bench import at_most
from dunlin import zipped
from packages import python_runtime

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


def measure(bench):
    server, seconds = bench.fresh("noisy"), 4 * bench.options.seconds
    try:
        package = lambda code: zipped({"handler.py": (code, 0o644)})
        path = server.create_function("quiet", python_runtime(), "handler.handler", package(QUIET), 256)
        for name in SPINNING:
            server.create_function(name, python_runtime(), "handler.handler", package(SPIN), 256)
        quiet = Quiet(server.port, path)
        quiet.measure(1)
        rounds = [round_of(server, quiet, seconds) for _ in range(bench.options.rounds)]
    finally:
        server.stop()
    columns = ("alone_p50_ms", "alone_p99_ms", "beside_p50_ms", "beside_p99_ms")
    found = {name: statistics.median(column) for name, column in zip(columns, zip(*rounds, strict=True), strict=True)}
    return found | {"bound_ms": max(3 * found["alone_p99_ms"], found["alone_p99_ms"] + 2 * tick_ms())}


def promises(found):
    return {"p99 of a quiet function beside two that spin, ms": at_most(found["beside_p99_ms"], found["bound_ms"])}


def lines(found):
    return [
        "## Noisy neighbours", "",
        "A quiet Python function, 3 ms between its calls, alone and beside two that spin on every processor.", "",
        "| | p50 ms | p99 ms |", "|---|---|---|",
        f"| alone | {found['alone_p50_ms']:.2f} | {found['alone_p99_ms']:.2f} |",
        f"| beside two that spin | {found['beside_p50_ms']:.2f} | {found['beside_p99_ms']:.2f} |",
    ]
