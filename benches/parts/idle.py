"""A fresh server, and one that finds its folder: time to ready, memory."""
import statistics
import time

import machine
from bench import at_most


def measure(bench):
    ready_first_ms = bench.server.ready_ms
    ready_ms = []
    for _ in range(bench.options.rounds):
        bench.restart()
        ready_ms.append(bench.server.ready_ms)
    time.sleep(1)
    pss_kib, processes = machine.pss_kib(bench.server.pid)
    return {
        "ready_first_ms": ready_first_ms, "ready_ms": statistics.median(ready_ms),
        "pss_mib": pss_kib / 1024, "processes": processes,
    }


def promises(found):
    return {"nothing deployed, whole tree, MiB PSS": at_most(found["pss_mib"], 64)}


def lines(found):
    return [
        "## Idle server, nothing deployed", "",
        f"Ready after {found['ready_ms']:.0f} ms ({found['ready_first_ms']:.0f} ms the first time in a new folder); "
        f"{found['pss_mib']:.1f} MiB PSS in {found['processes']} processes.",
    ]
