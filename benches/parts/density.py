"""Memory: a thousand idle Python environments, Node.js guests that wait for a function, ten thousand deployed functions."""
import concurrent.futures
import os
import statistics
import time

import machine
from bench import at_most, medians
from calls import all_at_once, get
from packages import node_package, node_runtime, python_package, python_runtime, sleeping_package

ENVIRONMENTS = 1_000
FUNCTIONS = 10_000


def measure(bench):
    return {"python": idle_python(bench), "node": pooled_node(bench), "functions": deployed(bench)}


def idle_python(bench):
    """What a thousand environments take that have served one call each and wait."""
    server = bench.fresh("idle-python", "--keep-alive", "3600")
    try:
        create = lambda name: server.create_function(name, python_runtime(), "handler.handler", sleeping_package("python"), 128)
        # Of a function whose calls are known to be short, calls would wait for one another.
        all_at_once(server.port, [get(server.port, create("other"))])
        path = create("f")
        time.sleep(3)
        before = machine.pss_kib(server.pid)[0], machine.available_kib()
        # Each call holds its environment until all have one: only so are there as many as calls.
        request = get(server.port, path + "?ms=20000")
        taken, failed = all_at_once(server.port, [request] * ENVIRONMENTS)
        time.sleep(2)
        listed = server.call("dunlin", "GET", "/_dunlin/ps")["environments"]
        there = sum(one["state"] == "idle" and one["function"] == "f" for one in listed)
        after = machine.pss_kib(server.pid)[0], machine.available_kib()
        count = max(1, there)
        return {
            "environments": there, "failed": failed, "last_s": taken[-1],
            "pss_mib": (after[0] - before[0]) / 1024 / count, "available_mib": (before[1] - after[1]) / 1024 / count,
        }
    finally:
        server.stop()


def pooled_node(bench):
    """What one guest takes that was booted and has no function yet."""
    server = bench.fresh("pooled-node")
    try:
        # As many are kept ready as were wanted at once; then those that got a function go.
        path = server.create_function("f", node_runtime(), "index.handler", sleeping_package("node"), 128)
        all_at_once(server.port, [get(server.port, path)] * 8 * os.cpu_count())
        server.create_function("g", node_runtime(), "index.handler", node_package())
        server.delete_function("f")
        seen, guests = [], []
        for _ in range(100):
            guests = [pid for pid in machine.tree(server.pid) if machine.program(pid).startswith("node")]
            if guests and guests == seen:
                break
            seen = guests
            time.sleep(1)
        pss = [machine.pss_of(pid) / 1024 for pid in guests]
        return {"guests": len(guests), "pss_mib": statistics.mean(pss) if pss else 0.0}
    finally:
        server.stop()


def deployed(bench):
    """What a call of one function costs, and the server holds, without and with ten thousand others."""
    server = bench.fresh("deployed")
    try:
        path = server.create_function("f", python_runtime(), "handler.handler", python_package())
        request = [get(server.port, path)]
        call = lambda: medians([bench.load(server, 1, request) for _ in range(bench.options.rounds)])
        bench.load(server, 1, request, 1500)
        few, few_kib = call(), machine.pss_of(server.pid)
        begin = time.perf_counter()
        package = python_package()
        create = lambda number: server.create_function(f"idle-{number}", python_runtime(), "handler.handler", package, 128)
        with concurrent.futures.ThreadPoolExecutor(16) as clients:
            list(clients.map(create, range(FUNCTIONS)))
        took_s = time.perf_counter() - begin
        time.sleep(2)
        many, many_kib = call(), machine.pss_of(server.pid)
        return {"few": few, "many": many, "kib_each": (many_kib - few_kib) / FUNCTIONS, "took_s": took_s}
    finally:
        server.stop()


def promises(found):
    python, functions = found["python"], found["functions"]
    return {
        f"{python['environments']} idle Python environments: MiB PSS each": at_most(python["pss_mib"], 4),
        "the same: MiB of MemAvailable each": at_most(python["available_mib"], 4),
        "a pooled Node guest: MiB PSS": at_most(found["node"]["pss_mib"], 10),
        "a call beside 10,000 deployed functions: CPU over that beside none": at_most(functions["many"]["cpu_us"] / functions["few"]["cpu_us"], 1.1),
    }


def lines(found):
    python, node, functions = found["python"], found["node"], found["functions"]
    few, many = functions["few"], functions["many"]
    return [
        "## Memory", "",
        f"{python['environments']} idle Python environments, made by as many calls at once ({python['failed']} failed, the last "
        f"answer after {python['last_s']:.1f} s with a handler that sleeps 20 s): {python['pss_mib']:.2f} MiB PSS each, "
        f"{python['available_mib']:.2f} MiB of MemAvailable each.", "",
        f"{node['guests']} Node.js guests that wait for a function: {node['pss_mib']:.1f} MiB PSS each.", "",
        f"{FUNCTIONS:,} more functions deployed in {functions['took_s']:.0f} s: the server's PSS grew by {functions['kib_each']:.2f} KiB each; a "
        f"call of another function, one connection: p50 {few['p50_us']:.0f} µs and {few['cpu_us']:.0f} CPU µs before, "
        f"{many['p50_us']:.0f} µs and {many['cpu_us']:.0f} CPU µs after.",
    ]
