"""Many first calls at once: Python functions forked from zygotes, and Node.js beyond the guests that are booted ahead.

Each burst is of functions that were never called and runs on a server of its own, so that making their state counts too.
Handlers sleep 300 ms: a call holds its environment while the others start. Environments a second are those that answered,
over the time from the first call until the last of them was ready, without those whose guests were booted ahead; which
calls they served does not matter, as a call takes whichever environment is free first.
"""
import os
import statistics
import subprocess
import sys
import time

import machine
from bench import at_least, at_most
from calls import all_at_once, first_call, get
from packages import node_runtime, python_runtime, sleeping_package

PYTHON_FUNCTIONS, PYTHON_CALLS = 20, 200
NODE_FUNCTIONS, NODE_CALLS = 10, 60
# What the processes of guests execute.
GUESTS = {"python": b"/python/zygote.py", "node": b"/nodejs/bootstrap.cjs"}


def measure(bench):
    rounds = max(2, bench.options.rounds // 2)
    # Only so that the ratio has the machine of these rounds.
    node_cpu_s = statistics.median(cpu_of_node() for _ in range(5))
    python = [burst(bench, "python", PYTHON_FUNCTIONS, PYTHON_CALLS, turn) for turn in range(rounds)]
    node = [burst(bench, "node", NODE_FUNCTIONS, NODE_CALLS, turn) for turn in range(rounds)]
    forks = {kind: statistics.median(forks_per_s(kind) for _ in range(5)) for kind in ("bare", "guest")}
    return {"python": middle(python), "node": middle(node), "node_cpu_s": node_cpu_s, "forks": forks, "rounds": rounds}


def middle(seen):
    return {name: statistics.median(one[name] for one in seen) for name in seen[0]} | {"failed": sum(one["failed"] for one in seen)}


def cpu_of_node():
    """Seconds of processor time of `node -e 0`."""
    before = os.times()
    subprocess.run(["node", "-e", "0"], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def forks_per_s(kind):
    """Forks/s of an interpreter like the zygote's, without any sandbox: what no platform that forks can pass."""
    peer = os.path.join(os.path.dirname(os.path.dirname(__file__)), "peers", "forks.py")
    done = subprocess.run([sys.executable, "-S", "-s", peer, str(PYTHON_CALLS), kind], capture_output=True, text=True, check=True)
    return float(done.stdout)


def guests(server, language):
    """How many processes of the server's are guests."""
    found = 0
    for pid in machine.tree(server.pid):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                found += GUESTS[language] in line.read()
        except OSError:
            continue
    return found


def burst(bench, language, functions, calls, turn):
    server = bench.fresh(f"burst-{language}-{turn}", "--keep-alive", "600")
    try:
        runtime, handler = {"python": (python_runtime(), "handler.handler"), "node": (node_runtime(), "index.handler")}[language]
        package = sleeping_package(language)
        paths = [server.create_function(f"b{number}", runtime, handler, package, 128) for number in range(functions)]
        # One function more, called once: the guests that are booted ahead are there, as on a server that has run a while.
        first_call(server.port, get(server.port, server.create_function("other", runtime, handler, package, 128)))
        time.sleep(3)
        # Beside the one that was called, and beside Python's zygote, they wait for a function.
        ahead = guests(server, language) - {"python": 2, "node": 1}[language]
        before, begin = machine.cpu_ns(server.pid), time.perf_counter()
        taken, failed = all_at_once(server.port, [get(server.port, paths[call % functions]) for call in range(calls)])
        cpu_ms = machine.cpu_ms(server.pid, before)
        listed, now = server.call("dunlin", "GET", "/_dunlin/ps")["environments"], time.perf_counter()
        environments = [one for one in listed if one["calls"] and one["function"] != "other"]
        over_s = now - begin - min(one["ageMs"] - one["initMs"] for one in environments) / 1e3
        return {
            "last_ms": taken[-1] * 1e3, "median_ms": statistics.median(taken) * 1e3, "failed": failed,
            "environments": len(environments), "ahead": ahead, "per_s": (len(environments) - ahead) / over_s, "cpu_ms": cpu_ms / calls,
        }
    finally:
        server.stop()


def promises(found):
    node_limit = 0.8 * os.cpu_count() / found["node_cpu_s"]
    return {
        "burst of 200 first calls to 20 Python functions: environments/s": at_least(found["python"]["per_s"], 300),
        "the same: answers that are no 200": at_most(found["python"]["failed"], 0),
        "Node beyond its pool: environments/s (0.8 of processors ÷ CPU of `node -e 0`)": at_least(found["node"]["per_s"], node_limit),
        "the same: answers no 200": at_most(found["node"]["failed"], 0),
    }


def lines(found):
    text = [
        "## Bursts of first calls", "",
        f"Handlers sleep 300 ms; medians of {found['rounds']} bursts, each on a new server. Guests that were booted ahead "
        f"are not counted as started. `node -e 0` takes {found['node_cpu_s'] * 1e3:.0f} ms of a processor. "
        f"Without a sandbox, {found['forks']['bare']:,.0f} forks/s of an interpreter like the zygote's are up, and "
        f"{found['forks']['guest']:,.0f} that also do what a guest does up to its first answer.", "",
        "| | calls at once | functions | environments | of them ahead | environments/s | median answer ms | last answer ms | CPU ms/call | not 200 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, calls, functions in (("python", PYTHON_CALLS, PYTHON_FUNCTIONS), ("node", NODE_CALLS, NODE_FUNCTIONS)):
        row = found[name]
        text.append(
            f"| {name} | {calls} | {functions} | {row['environments']:.0f} | {row['ahead']:.0f} | {row['per_s']:,.0f} | {row['median_ms']:,.0f} | "
            f"{row['last_ms']:,.0f} | {row['cpu_ms']:.1f} | {row['failed']:.0f} |")
    return text
