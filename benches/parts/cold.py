"""First calls, one at a time, beside fresh processes of the same handler."""
import io
import json
import os
import signal
import socket
import statistics
import subprocess
import time
import urllib.request
import zipfile

import machine
from bench import Peer, at_most
from calls import first_call, get, post
from packages import (
    ROOT, boto3_package, boto3_peer, has_java, imports_peer, java_package, java_peer, native_package, native_program, node_package,
    node_peer, node_runtime, python_package, python_peer, python_runtime, static_program,
)

# Cold starts over a warm call: most ms, and most of what a fresh process takes.
PROMISED = {
    "python hello": (6, 1 / 3), "node hello": (5, 1 / 5), "python, boto3 and requests": (12, 1 / 30),
    # Its client is the function's own work, which only SnapStart has behind it.
    "python, boto3, requests and a client": (None, None),
    "python, boto3, requests and a client, SnapStart": (12, 1 / 30), "items-api (TypeScript, aws-sdk v2)": (None, 1 / 2),
    "java hello": (12, 1 / 5), "provided (native)": (3, None), "provided (native, shared libraries)": (3, None),
}
# Of a native program the cold start over a warm call is at most so many bare spawns and so many ms.
SPAWNS, SPAWNS_MS = 1.5, 1

JAVA = "java17"
# First calls before those that are measured, and what the platform has of time to prepare after each.
BEFORE, PREPARES_S = 2, 3


def measure(bench):
    return Cold(bench).measure()


class Cold:
    """The part's rounds, on the bench's server."""

    def __init__(self, bench):
        self.bench = bench
        self.server = bench.server

    def measure(self):
        rounds = self.bench.options.rounds * 2
        # With a variable that an interpreter reads at its start only, a function takes no guest that was booted before.
        server = lambda peer: lambda: fresh_process(peer)
        python = ("PYTHONNODEBUGRANGES", server(python_peer), python_runtime())
        node = ("NODE_NO_WARNINGS", server(node_peer), node_runtime())
        kinds = {
            "python hello": (python, "handler.handler", python_package),
            "node hello": (node, "index.handler", node_package),
            "python, boto3 and requests": (
                ("PYTHONNODEBUGRANGES", server(imports_peer), python_runtime()), "imports.handler", boto3_package),
            "python, boto3, requests and a client": (
                ("PYTHONNODEBUGRANGES", server(boto3_peer), python_runtime()), "handler.handler", boto3_package),
            **{kind: native(program) for kind, program in (
                ("provided (native)", static_program()), ("provided (native, shared libraries)", native_program(self.bench)))},
        }
        if has_java():
            self.run_dunlin("runtimes", "add", JAVA)
            kinds["java hello"] = (("JAVA_TOOL_OPTIONS", server(java_peer), JAVA), "Hello", java_package)
        rows = {}
        for kind, ((variable, fresh, runtime), handler, package) in kinds.items():
            name = kind.split(",")[0].replace(" ", "-").replace("(", "").replace(")", "") + str(len(kind))
            rows[kind] = self.cold_of(name, runtime, handler, package, fresh, variable, rounds)
        rows["python, boto3, requests and a client, SnapStart"] = self.cold_of_versions(rounds)
        rows["items-api (TypeScript, aws-sdk v2)"] = self.cold_of_items(rounds)
        return rows

    def cold_of(self, name, runtime, handler, package, fresh, variable, rounds):
        path = self.server.create_function(f"cold-{name}", runtime, handler, package())
        request = get(self.server.port, path)
        seen = {"environment": [], "extra": [], "busy": [], "empty": [], "created": [], "fresh": [], "cpu": [], "fresh_cpu": []}
        self.until_ready(f"cold-{name}", request)
        for turn in range(rounds):
            self.server.renew(f"cold-{name}", turn)
            self.renewed_call(request, seen)
            if variable:
                self.server.renew(f"cold-{name}", turn, {variable: "-Dearly=1" if variable.startswith("JAVA") else "1"})
                cold = self.after_a_while(request)
                seen["empty"].append(cold - self.after_a_while(request))
            new = f"cold-{name}-{turn}"
            new_path = self.server.create_function(new, runtime, handler, package(salt=turn))
            seen["created"].append(self.after_a_while(get(self.server.port, new_path)))
            self.server.delete_function(new)
            taken, spent = fresh()
            seen["fresh"].append(taken)
            seen["fresh_cpu"].append(spent)
        inits = [line for line in self.server.reports(f"cold-{name}") if "Init Duration" in line][BEFORE:]
        self.server.delete_function(f"cold-{name}")
        return cold_row(seen, inits[::2] if variable else inits)

    def cold_of_versions(self, rounds):
        """First calls of versions whose init has run when they were published."""
        # It asks for no interpreter of its own: Lambda has SnapStart from this version on, and the host's runs it.
        path = self.server.create_function(
            "snap-start", "python3.12", "handler.handler", boto3_package(), qualifier="live",
            SnapStart={"ApplyOn": "PublishedVersions"})
        request = get(self.server.port, path)
        seen = {"environment": [], "extra": [], "busy": [], "empty": [], "created": [], "fresh": [], "cpu": [], "fresh_cpu": []}
        self.after_a_while(request)
        for turn in range(rounds):
            self.server.renew("snap-start", turn)
            self.server.publish("snap-start", "live")
            self.renewed_call(request, seen)
            taken, spent = fresh_process(boto3_peer)
            seen["fresh"].append(taken)
            seen["fresh_cpu"].append(spent)
        restores = [line for line in self.server.reports("snap-start") if "Restore Duration" in line][1:]
        self.server.delete_function("snap-start")
        if len(restores) < rounds:
            return {"error": f"only {len(restores)} of {rounds} environments began from a snapshot"}
        return cold_row(seen, restores)

    def until_ready(self, name, request):
        """Calls that are no part of the rounds: from the first ones on the platform prepares for more, with compiled code and
        what the function imports of others, and the host has its files in memory."""
        for turn in range(BEFORE):
            self.server.renew(name, f"before-{turn}")
            first_call(self.server.port, request)
            time.sleep(PREPARES_S)

    def after_a_while(self, request):
        """A call at least half a second after what came before it: guests that are booted ahead are there again."""
        time.sleep(0.6)
        return first_call(self.server.port, request)

    def renewed_call(self, request, seen):
        """The first call after `renew`: its time, what that is over a warm one that comes as long after the one before it, and
        over those that come one after another, and what all processes spent on it."""
        time.sleep(0.6)
        before = machine.cpu_ns(self.server.pid)
        taken = first_call(self.server.port, request)
        seen["cpu"].append(machine.cpu_ms(self.server.pid, before))
        seen["environment"].append(taken)
        seen["busy"].append(taken - statistics.median(first_call(self.server.port, request) for _ in range(5)))
        seen["extra"].append(taken - self.after_a_while(request))

    def cold_of_items(self, rounds):
        done = self.run_dunlin("deploy", os.path.join(ROOT, "examples", "items-api"), "--json")
        if done.returncode != 0:
            return {"error": (done.stderr.strip().splitlines() or ["deploy failed"])[-1]}
        deployed = json.loads(done.stdout)
        path = "/" + deployed["url"].split("/", 3)[3]
        name = deployed["functions"][0]
        request = post(self.server.port, path, b'{"id":"a","data":{"n":1}}')
        created = [first_call(self.server.port, request)]
        seen = {"environment": [], "extra": [], "busy": [], "empty": [], "created": created, "fresh": [], "cpu": [], "fresh_cpu": []}
        bundle = self.bundle_of(name)
        for turn in range(rounds):
            self.server.renew(name, turn)
            self.renewed_call(request, seen)
            # Only to load the same bundle, without a server before it.
            begin = time.perf_counter()
            subprocess.run(["node", "-e", f"require({json.dumps(bundle)})"], check=True, env={**os.environ, "TABLE_NAME": "t"})
            seen["fresh"].append((time.perf_counter() - begin) * 1e3)
        inits = [line for line in self.server.reports(name) if "Init Duration" in line][1:]
        return cold_row(seen, inits)

    def run_dunlin(self, *arguments):
        """Runs the program as a client of the server."""
        command = [self.bench.options.dunlin, *arguments, "--endpoint", f"http://127.0.0.1:{self.server.port}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)

    def bundle_of(self, name):
        """The deployed package of a function, unpacked; its handler's file."""
        seen = self.server.call("lambda", "GET", f"/2015-03-31/functions/{name}")
        folder = os.path.join(self.bench.folder, "bundle")
        with urllib.request.urlopen(seen["Code"]["Location"]) as answer:
            with zipfile.ZipFile(io.BytesIO(answer.read())) as package:
                package.extractall(folder)
        return os.path.join(folder, seen["Configuration"]["Handler"].rsplit(".", 1)[0])


def fresh_process(make):
    """ms from starting a peer to its first whole answer, and the CPU ms that it used until then."""
    port = machine.free_port()
    begin = time.perf_counter()
    peer = Peer(make(port), port)
    try:
        return (time.perf_counter() - begin) * 1e3, machine.cpu_ms(peer.pid, {})
    finally:
        peer.stop()


def native(program):
    """A kind of function: its variable, bare process and runtime, its handler and its package."""
    return (None, lambda: bare_spawn(program), "provided.al2023"), "bootstrap", lambda salt=None: native_package(program, salt)


def bare_spawn(program):
    """ms from starting a custom runtime to the first request that it makes, and the CPU ms that it used until then."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        variables = {"AWS_LAMBDA_RUNTIME_API": "%s:%d" % listener.getsockname()}
        begin = time.perf_counter()
        pid = os.posix_spawn(program, [program], variables)
        try:
            with listener.accept()[0] as connection:
                connection.recv(1)
                taken = (time.perf_counter() - begin) * 1e3
        finally:
            os.kill(pid, signal.SIGKILL)
            used = os.wait4(pid, 0)[2]
    return taken, (used.ru_utime + used.ru_stime) * 1e3


def cold_row(seen, inits):
    def median(values):
        return statistics.median(values) if values else None

    return {
        **{f"{name}_ms": median(values) for name, values in seen.items()},
        "environment_min_ms": min(seen["environment"]), "environment_max_ms": max(seen["environment"]),
        "init_ms": median([line.get("Init Duration", line.get("Restore Duration")) for line in inits]),
        "handler_ms": median([line["Duration"] for line in inits]), "calls": len(seen["environment"]),
    }


def promises(found):
    promised = {}
    for kind, (most_ms, of_fresh) in PROMISED.items():
        row = found.get(kind, {"error": "not measured: this host lacks what it needs"})
        if "error" in row:
            continue
        if most_ms:
            promised[f"cold start over a warm call, {kind}, ms"] = at_most(row["extra_ms"], most_ms)
        if of_fresh:
            promised[f"the same, of a fresh process, {kind}"] = at_most(row["extra_ms"] / row["fresh_ms"], of_fresh)
        if row["empty_ms"]:
            promised[f"nothing booted ahead, of a fresh process, {kind}"] = at_most(row["empty_ms"] / row["fresh_ms"], 1.2)
        if kind.startswith("provided"):
            promised[f"cold start over a warm call, {kind}, ms: {SPAWNS} bare spawns and {SPAWNS_MS} ms"] = at_most(
                row["extra_ms"], SPAWNS * row["fresh_ms"] + SPAWNS_MS)
    return promised


def lines(rows):
    text = [
        "## Cold start, HTTP included", "",
        "*Over warm*: the first call of a new environment of a known package, half a second after anything else, less a warm "
        "call as long after; *over busy* is less one of warm calls that come one after another, which find processors and caches "
        "that have not rested. *Of it init*: what the REPORT line says; of SnapStart, the restore. *Nothing ahead*: the same where no guest is booted ahead. *New "
        "function*: its package is unpacked as well. *Fresh process*: the bare server from its start to its first answer; "
        "of items-api, `node -e require(bundle)`, of native programs one that is spawned alone, until its first request. CPU of all processes of a side.", "",
        "| | over warm ms | over busy ms | whole call ms (min to max) | of it init | of it handler | CPU ms | nothing ahead ms | new function ms | fresh process ms | its CPU ms | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if "error" in row:
            text.append(f"| {name} | not measured: {row['error']} | | | | | | | | | |")
            continue
        shown = {key: "–" if value is None else f"{value:.1f}" for key, value in row.items()}
        ratio = f"{row['extra_ms'] / row['fresh_ms']:.3f}" if row["fresh_ms"] else "–"
        text.append(
            f"| {name} | {shown['extra_ms']} | {shown['busy_ms']} | {shown['environment_ms']} ({shown['environment_min_ms']} to "
            f"{shown['environment_max_ms']}) | {shown['init_ms']} | {shown['handler_ms']} | {shown['cpu_ms']} | "
            f"{shown['empty_ms']} | {shown['created_ms']} | {shown['fresh_ms']} | {shown['fresh_cpu_ms']} | {ratio} |")
    return text
