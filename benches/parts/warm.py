"""Warm calls: the same handler on the platform and behind bare servers, with one thread of load.

Beside them processes of the languages behind the least HTTP server that hands them events (`load`'s program `front`), which makes
no event of a request and isolates, meters and logs nothing: what a platform that has functions in processes of their own could reach.

Two columns: both processors for whichever side is measured, which the load's thread shares; and pinned, where a side has
processor 0 to itself and the load processor 1.
"""
import functools
import os
import subprocess

import machine
from bench import at_least, at_most, load_line, medians
from calls import get
from dunlin import zipped
from packages import (
    front_peer, native_package, native_program, node_package, node_peer, node_runtime, python_package, python_peer, python_runtime, salted, uvicorn_peer, workerd_peer,
)

CONNECTIONS = (1, 16, 64)
PINNED = "pinned"
SETTLED_MS = 6_000
#: Events that a process has in its socket beside the one it runs, where it has some.
FRONT_AHEAD = 3
BARE = {
    "dunlin node": "bare node:http", "front, node": "bare node:http", "front, node, ahead": "bare node:http", "workerd": "bare node:http",
    "dunlin provided (native)": "bare node:http", "dunlin python": "uvicorn + starlette", "front, python": "uvicorn + starlette",
    "front, python, ahead": "uvicorn + starlette", "bare python http.server": "uvicorn + starlette",
}


def measure(bench):
    peers = {"bare node:http": node_peer, "workerd": workerd_peer, "uvicorn + starlette": uvicorn_peer, "bare python http.server": python_peer}
    front = functools.partial(front_peer, bench)
    for language in ("node", "python"):
        peers |= {f"front, {language}": front(language), f"front, {language}, ahead": front(language, FRONT_AHEAD)}
    sides = {name: (bench.peer(make), "/") for name, make in peers.items()}
    create = bench.server.create_function
    sides |= {
        "dunlin node": (bench.server, create("warm-node", node_runtime(), "index.handler", node_package())),
        "dunlin python": (bench.server, create("warm-python", python_runtime(), "handler.handler", python_package())),
        "dunlin provided (native)": (bench.server, create("warm-native", "provided.al2023", "bootstrap", native_package(native_program(bench)))),
    }
    sides = {name: side for name, side in sides.items() if side[0]}
    rows = {name: {} for name in sides}
    for connections in CONNECTIONS:
        measure_column(bench, sides, rows, connections, connections)
    if os.cpu_count() >= 2:
        with Pinned(side.pid for side, _ in sides.values()):
            measure_column(bench, sides, rows, PINNED, CONNECTIONS[-1], pinned=1)
    for name in ("warm-node", "warm-python", "warm-native"):
        bench.server.delete_function(name)
    return rows


def measure_column(bench, sides, rows, column, connections, pinned=None):
    samples = {name: [] for name in sides}
    # Until nothing more is started for what comes now: environments, and guests that take the place of those they took.
    for side, path in sides.values():
        bench.load(side, connections, [get(side.port, path)], SETTLED_MS, pinned)
    for _ in range(bench.options.rounds):
        for name, (side, path) in sides.items():
            samples[name].append(bench.load(side, connections, [get(side.port, path)], pinned=pinned))
    for name, seen in samples.items():
        rows[name][column] = medians(seen)


class Pinned:
    """Every thread of these process trees on processor 0, for a while."""

    def __init__(self, roots):
        self.pids = [pid for root in roots for pid in machine.tree(root)]

    def _put(self, processors):
        for pid in self.pids:
            # A process may have ended meanwhile.
            subprocess.run(["taskset", "-a", "-p", "-c", processors, str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def __enter__(self):
        self._put("0")

    def __exit__(self, *_):
        self._put(f"0-{os.cpu_count() - 1}")


def promises(found):
    bare, own = found["bare node:http"], found["dunlin node"]
    promised = {
        "Node, 64 connections: requests/s over bare node:http": at_least(own[64]["rps"] / bare[64]["rps"], 1.0),
        "Node, 64 connections: CPU per request over bare node:http": at_most(own[64]["cpu_us"] / bare[64]["cpu_us"], 2.5),
        "Node, 64 connections: p99 over bare node:http": at_most(own[64]["p99_us"] / bare[64]["p99_us"], 1.0),
        "Node, 1 connection: p50 over bare node:http": at_most(own[1]["p50_us"] / bare[1]["p50_us"], 1.5),
    }
    if "uvicorn + starlette" in found:
        python, peer = found["dunlin python"][64], found["uvicorn + starlette"][64]
        promised["Python, 64 connections: requests/s over uvicorn + starlette"] = at_least(python["rps"] / peer["rps"], 2.0)
    return promised


def lines(found):
    text = [
        "## Warm calls through a function URL, keep-alive", "",
        "Both processors for either side, one thread of load, the same JSON answer; of the platform with the whole event of "
        "format 2.0, metering and logs. *Pinned*: 64 connections, each side on processor 0 alone, the load on processor 1. "
        "*To bare* is bare node:http, for Python uvicorn + starlette.", "",
        "| | connections | p50 µs | p99 µs | requests/s | CPU µs/request | page faults/request | not 2xx | p50 to bare | requests/s to bare |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for column in (*CONNECTIONS, PINNED):
        for name, row in found.items():
            if column not in row:
                continue
            seen, bare = row[column], found.get(BARE.get(name, name), row)[column]
            ratios = f" {seen['p50_us'] / bare['p50_us']:.2f} | {seen['rps'] / bare['rps']:.2f} |"
            text.append(load_line(name, column, seen) + ratios)
    return text
