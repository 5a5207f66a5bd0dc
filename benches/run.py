#!/usr/bin/env python3
"""Measures Dunlin beside its peers in one run, and prints a table and JSON.

    python3 benches/run.py [--dunlin FILE] [--load FILE] [--rounds N] [--seconds S] [--only PART…] [--no-save]

Parts: `warm` (function URLs beside bare servers, interleaved A-B-A-B), `cold` (first calls beside fresh processes),
`idle` (time to ready, memory), `tables` (the DynamoDB interface).

Everything is started here, on loopback and free ports, in a temporary folder, and ended here. Figures are medians of
rounds. Absolute times drift on shared machines: the ratios are what counts. Needs the release build of `dunlin` and
`load` (`cargo build --release -p server -p load`). The last whole run is kept in benches/results/latest.md.

Start reading at `main`. Machine figures are read in machine.py, the platform is driven in dunlin.py.
"""
import argparse
import atexit
import datetime
import functools
import io
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile

import machine
from dunlin import Server, authorization, zipped

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
CONNECTIONS = (1, 16, 64)
PARTS = ("idle", "cold", "warm", "tables")
# The figures that the project promises; a run says whether they were met.
WARM_RATIO_MAX = 3.0
# Cold starts over a warm call: most ms, and most of what a fresh process takes.
COLD = {
    "python hello": (6, 1 / 3), "node hello": (5, 1 / 5), "python, boto3 and requests": (12, 1 / 30),
    "items-api (TypeScript, aws-sdk v2)": (None, 1 / 2),
}


def main():
    options = parse_options()
    folder = tempfile.mkdtemp(prefix="dunlin-bench-")
    os.chmod(folder, 0o755)
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.description(),
        "command": " ".join(["python3 benches/run.py"] + sys.argv[1:]),
        "rounds": options.rounds,
    }
    bench = None
    try:
        bench = Bench(options, folder)
        for part in PARTS:
            if part in options.only:
                say(f"{part} …")
                found[part] = getattr(bench, part)()
    finally:
        if bench:
            bench.end()
        shutil.rmtree(folder, ignore_errors=True)
    found["verdicts"] = verdicts(found)
    text = report(found)
    print(text)
    print(json.dumps(found))
    if not options.no_save and set(options.only) == set(PARTS):
        os.makedirs(os.path.join(HERE, "results"), exist_ok=True)
        with open(os.path.join(HERE, "results", "latest.md"), "w", encoding="utf-8") as kept:
            kept.write(text)


def parse_options():
    release = os.path.join(ROOT, "target", "release")
    parser = argparse.ArgumentParser(description="Measures Dunlin beside its peers.")
    parser.add_argument("--dunlin", default=os.environ.get("DUNLIN_BIN") or os.path.join(release, "dunlin"))
    parser.add_argument("--load", default=os.path.join(release, "load"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8, help="of each measured stretch")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--no-save", action="store_true", help="leave benches/results/latest.md as it is")
    options = parser.parse_args()
    for file in (options.dunlin, options.load):
        if not os.access(file, os.X_OK):
            parser.error(f"{file} is missing: run `cargo build --release -p server -p load` first")
    return options


def say(words):
    print(words, file=sys.stderr, flush=True)


class Bench:
    """One server, its peers and the parts of the run."""

    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.peers = []
        self.server = Server(options.dunlin, folder)

    def end(self):
        self.server.stop()
        for peer in self.peers:
            stop(peer)

    # idle: a fresh server, and one that finds its folder

    def idle(self):
        ready_first_ms = self.server.ready_ms
        ready_ms = []
        for _ in range(self.options.rounds):
            self.server.stop()
            self.server = Server(self.options.dunlin, self.folder)
            ready_ms.append(self.server.ready_ms)
        time.sleep(1)
        pss_kib, processes = machine.pss_kib(self.server.pid)
        return {
            "ready_first_ms": ready_first_ms, "ready_ms": statistics.median(ready_ms),
            "pss_mib": pss_kib / 1024, "processes": processes,
        }

    # warm: the same handler on the platform and behind a bare server

    def warm(self):
        sides = {
            "bare node:http": self.peer(node_peer),
            "dunlin node": (self.server, self.server.create_function("warm-node", node_runtime(), "index.handler", node_package())),
            "bare python http.server": self.peer(python_peer),
            "dunlin python": (self.server, self.server.create_function("warm-python", python_runtime(), "handler.handler", python_package())),
            "dunlin provided (native)": (self.server, self.server.create_function("warm-native", "provided.al2023", "bootstrap", self.native_package())),
        }
        rows = {name: {} for name in sides}
        for connections in CONNECTIONS:
            samples = {name: [] for name in sides}
            for name, (side, path) in sides.items():
                self.load(side, connections, [get(side.port, path)], 0, 1500)
            for _ in range(self.options.rounds):
                for name, (side, path) in sides.items():
                    samples[name].append(self.load(side, connections, [get(side.port, path)]))
            for name, seen in samples.items():
                rows[name][connections] = medians(seen)
        for name in ("warm-node", "warm-python", "warm-native"):
            self.server.delete_function(name)
        return rows

    def peer(self, make):
        port = machine.free_port()
        peer = Peer(subprocess.Popen(make(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port)
        self.peers.append(peer)
        wait_for_answer(port, "/")
        return peer, "/"

    def load(self, side, connections, requests, warm_ms=150, run_ms=None):
        run_ms = run_ms or int(self.options.seconds * 1000)
        file = os.path.join(self.folder, "requests")
        with open(file, "wb") as held:
            for request in requests:
                held.write(b"%d\n" % len(request) + request)
        spent = machine.Spent(side.pid)
        command = [self.options.load, f"127.0.0.1:{side.port}", str(connections), str(warm_ms), str(run_ms), file]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        cpu_us, minor, major = spent.since()
        if done.returncode != 0:
            raise RuntimeError(f"load failed: {done.stderr}")
        seen = json.loads(done.stdout)
        # Spent over warm-up and run, so it is divided by the answers of both.
        answers = max(1, seen["answers_in_all"])
        return {**seen, "cpu_us": cpu_us / answers, "faults": minor / answers, "major_faults": major}

    # cold: first calls, one at a time

    def cold(self):
        rounds = self.options.rounds * 2
        # With a variable that an interpreter reads at its start only, a function takes no guest that was booted before.
        python, node = ("PYTHONNODEBUGRANGES", python_peer, python_runtime()), ("NODE_NO_WARNINGS", node_peer, node_runtime())
        kinds = {
            "python hello": (python, "handler.handler", python_package),
            "node hello": (node, "index.handler", node_package),
            "python, boto3 and requests": (("PYTHONNODEBUGRANGES", boto3_peer, python_runtime()), "handler.handler", boto3_package),
            "provided (native)": ((None, None, "provided.al2023"), "bootstrap", self.native_package),
        }
        rows = {}
        for kind, ((variable, peer, runtime), handler, package) in kinds.items():
            name = kind.split(",")[0].replace(" ", "-").replace("(", "").replace(")", "") + str(len(kind))
            rows[kind] = self.cold_of(name, runtime, handler, package, peer, variable, rounds)
        rows["items-api (TypeScript, aws-sdk v2)"] = self.cold_of_items(rounds)
        return rows

    def cold_of(self, name, runtime, handler, package, peer, variable, rounds):
        path = self.server.create_function(f"cold-{name}", runtime, handler, package())
        request = get(self.server.port, path)
        seen = {"environment": [], "extra": [], "empty": [], "created": [], "fresh": [], "cpu": [], "fresh_cpu": []}
        self.after_a_while(request)
        for turn in range(rounds):
            self.server.renew(f"cold-{name}", turn)
            self.renewed_call(request, seen)
            if variable:
                self.server.renew(f"cold-{name}", turn, {variable: "1"})
                cold = self.after_a_while(request)
                seen["empty"].append(cold - self.warm_call(request))
            new = f"cold-{name}-{turn}"
            new_path = self.server.create_function(new, runtime, handler, package(salt=turn))
            seen["created"].append(self.after_a_while(get(self.server.port, new_path)))
            self.server.delete_function(new)
            if peer:
                taken, spent = fresh_process(peer)
                seen["fresh"].append(taken)
                seen["fresh_cpu"].append(spent)
        # The first call of all is no part of the rounds; it warms the host's page cache.
        inits = [line for line in self.server.reports(f"cold-{name}") if "Init Duration" in line][1:]
        self.server.delete_function(f"cold-{name}")
        return cold_row(seen, inits[::2] if variable else inits)

    def after_a_while(self, request):
        """A call at least half a second after what came before it: guests that are booted ahead are there again."""
        time.sleep(0.6)
        return first_call(self.server.port, request)

    def warm_call(self, request):
        """What the same call takes in an environment that is there."""
        return statistics.median(first_call(self.server.port, request) for _ in range(5))

    def renewed_call(self, request, seen):
        """The first call after `renew`: its time, over a warm call too, and what all processes spent on it."""
        time.sleep(0.6)
        before = machine.cpu_ns(self.server.pid)
        taken = first_call(self.server.port, request)
        seen["cpu"].append(machine.cpu_ms(self.server.pid, before))
        seen["environment"].append(taken)
        seen["extra"].append(taken - self.warm_call(request))

    def cold_of_items(self, rounds):
        command = [self.options.dunlin, "deploy", os.path.join(ROOT, "examples", "items-api"), "--json", "--endpoint",
                   f"http://127.0.0.1:{self.server.port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            return {"error": (done.stderr.strip().splitlines() or ["deploy failed"])[-1]}
        deployed = json.loads(done.stdout)
        path = "/" + deployed["url"].split("/", 3)[3]
        name = deployed["functions"][0]
        request = post(self.server.port, path, b'{"id":"a","data":{"n":1}}')
        created = [first_call(self.server.port, request)]
        seen = {"environment": [], "extra": [], "empty": [], "created": created, "fresh": [], "cpu": [], "fresh_cpu": []}
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

    def bundle_of(self, name):
        """The deployed package of a function, unpacked; its handler's file."""
        seen = self.server.call("lambda", "GET", f"/2015-03-31/functions/{name}")
        folder = os.path.join(self.folder, "bundle")
        with urllib.request.urlopen(seen["Code"]["Location"]) as answer:
            with zipfile.ZipFile(io.BytesIO(answer.read())) as package:
                package.extractall(folder)
        return os.path.join(folder, seen["Configuration"]["Handler"].rsplit(".", 1)[0])

    def native_package(self, salt=None):
        with open(os.path.join(os.path.dirname(self.options.load), "bootstrap"), "rb") as built:
            return zipped({"bootstrap": (built.read(), 0o755), **salted(salt)})

    # tables: PutItem and GetItem of 1 KB items

    def tables(self):
        self.server.target("dynamodb", "DynamoDB_20120810.CreateTable", {
            "TableName": "Bench", "BillingMode": "PAY_PER_REQUEST",
            "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
            "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        })
        puts = [self.table_call("PutItem", {"Item": item(n)}) for n in range(2000)]
        gets = [self.table_call("GetItem", {"Key": {"id": {"S": f"item-{n}"}}}) for n in range(2000)]
        self.load(self.server, 16, puts, 0, 2000)
        rows = {"flush_us": machine.flush_us(self.folder), "PutItem": {}, "GetItem": {}}
        for connections in CONNECTIONS:
            samples = {"PutItem": [], "GetItem": []}
            for _ in range(self.options.rounds):
                samples["PutItem"].append(self.load(self.server, connections, puts))
                samples["GetItem"].append(self.load(self.server, connections, gets))
            for name, seen in samples.items():
                rows[name][connections] = medians(seen)
        return rows

    def table_call(self, operation, body):
        text = json.dumps({"TableName": "Bench", **body}).encode()
        head = (f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{self.server.port}\r\nAuthorization: {authorization('dynamodb')}\r\n"
                f"X-Amz-Date: 20260101T000000Z\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\n"
                f"Content-Type: application/x-amz-json-1.0\r\nContent-Length: {len(text)}\r\n\r\n")
        return head.encode() + text


class Peer:
    """A server to compare with."""

    def __init__(self, process, port):
        self.process = process
        self.port = port
        self.pid = process.pid


def stop(peer):
    peer.process.terminate()
    peer.process.wait(10)


def item(number):
    return {"id": {"S": f"item-{number}"}, "count": {"N": str(number)}, "text": {"S": "x" * 960}}


def node_peer(port):
    return ["node", os.path.join(HERE, "peers", "http_node.js"), os.path.join(HERE, "functions", "node", "index.js"), str(port)]


def python_peer(port):
    return [real_python(), os.path.join(HERE, "peers", "http_python.py"), os.path.join(HERE, "functions", "python"), str(port)]


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


@functools.cache
def boto3_folder():
    """The function with boto3 and requests, and what it needs, installed once."""
    folder = tempfile.mkdtemp(prefix="dunlin-bench-boto3-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = os.path.join(HERE, "functions", "python-boto3")
    command = [real_python(), "-m", "pip", "install", "-q", "--target", folder, "-r", os.path.join(source, "requirements.txt")]
    subprocess.run(command, check=True)
    shutil.copy(os.path.join(source, "handler.py"), folder)
    return folder


def boto3_package(salt=None):
    files = {}
    for above, _, names in os.walk(boto3_folder()):
        for name in names:
            path = os.path.join(above, name)
            with open(path, "rb") as source:
                files[os.path.relpath(path, boto3_folder())] = (source.read(), 0o644)
    return zipped({**files, **salted(salt)})


def boto3_peer(port):
    return [real_python(), os.path.join(HERE, "peers", "http_python.py"), boto3_folder(), str(port)]


def packaged(folder, name, salt):
    with open(os.path.join(HERE, "functions", folder, name), "rb") as source:
        return zipped({name: (source.read(), 0o644), **salted(salt)})


def salted(salt):
    """A file that makes a package one that the server has not seen."""
    return {} if salt is None else {"salt.txt": (f"{salt} {time.time_ns()}".encode(), 0o644)}


def get(port, path):
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def post(port, path, body):
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def first_call(port, request):
    """ms from connecting to the whole answer, which must be a 200."""
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as stream:
        stream.sendall(request)
        answer = b""
        while not whole(answer):
            chunk = stream.recv(65536)
            if not chunk:
                raise RuntimeError(f"the connection ended early: {answer[:200]!r}")
            answer += chunk
    taken = (time.perf_counter() - begin) * 1e3
    if answer[9:12] != b"200":
        raise RuntimeError(f"a first call was answered {answer[:400]!r}")
    return taken


def whole(answer):
    head, gap, body = answer.partition(b"\r\n\r\n")
    if not gap:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return body.endswith(b"0\r\n\r\n")


def wait_for_answer(port, path):
    for _ in range(20_000):
        try:
            return first_call(port, get(port, path))
        except OSError:
            time.sleep(0.0005)
    raise RuntimeError("a peer did not answer")


def fresh_process(make):
    """ms from starting a peer to its first whole answer, and the CPU ms that it used until then."""
    port = machine.free_port()
    begin = time.perf_counter()
    peer = Peer(subprocess.Popen(make(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL), port)
    try:
        wait_for_answer(port, "/")
        return (time.perf_counter() - begin) * 1e3, machine.cpu_ms(peer.pid, {})
    finally:
        stop(peer)


def medians(samples):
    """Each figure's median over the rounds; refused answers are summed."""
    row = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
    row["refused"] = sum(sample["refused"] for sample in samples)
    return row


def cold_row(seen, inits):
    def median(values):
        return statistics.median(values) if values else None

    return {
        **{f"{name}_ms": median(values) for name, values in seen.items()},
        "environment_min_ms": min(seen["environment"]), "environment_max_ms": max(seen["environment"]),
        "init_ms": median([line["Init Duration"] for line in inits]),
        "handler_ms": median([line["Duration"] for line in inits]), "calls": len(seen["environment"]),
    }


def verdicts(found):
    """The promised figures: {words: (figure, limit, met)}."""
    checked = {}

    def check(words, figure, limit):
        checked[words] = (round(figure, 2), limit, figure <= limit)

    if "warm" in found:
        bare, own = found["warm"]["bare node:http"][1], found["warm"]["dunlin node"][1]
        check("warm Node call, 1 connection: p50 over bare node:http", own["p50_us"] / bare["p50_us"], WARM_RATIO_MAX)
    if "cold" in found:
        for kind, (most_ms, of_fresh) in COLD.items():
            row = found["cold"][kind]
            if "error" in row:
                continue
            if most_ms:
                check(f"cold start over a warm call, {kind}, ms", row["extra_ms"], most_ms)
            check(f"the same, of a fresh process, {kind}", row["extra_ms"] / row["fresh_ms"], of_fresh)
            if row["empty_ms"]:
                check(f"nothing booted ahead, of a fresh process, {kind}", row["empty_ms"] / row["fresh_ms"], 1.2)
    return checked


# The report

def report(found):
    lines = [
        "# Benchmarks, last run", "",
        f"{found['date']}; `{found['command']}`; {found['machine']}. Client and servers share the machine; medians of "
        f"{found['rounds']} interleaved rounds. Ratios count, absolute times drift.", "",
        "| promised | measured | at most | met |", "|---|---|---|---|",
    ]
    lines += [f"| {words} | {figure} | {limit} | {'yes' if met else '**no**'} |" for words, (figure, limit, met) in found["verdicts"].items()]
    sections = {"warm": warm_lines, "cold": cold_lines, "idle": idle_lines, "tables": table_lines}
    for part, section in sections.items():
        if part in found:
            lines += [""] + section(found[part])
    return "\n".join(lines) + "\n"


def warm_lines(rows):
    lines = [
        "## Warm calls through a function URL, keep-alive", "",
        "| | connections | p50 µs | p99 µs | requests/s | CPU µs/request | page faults/request | not 2xx | p50 to bare |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    bare = {"dunlin node": "bare node:http", "dunlin python": "bare python http.server", "dunlin provided (native)": "bare node:http"}
    for connections in CONNECTIONS:
        for name, row in rows.items():
            seen = row[connections]
            ratio = seen["p50_us"] / rows[bare[name]][connections]["p50_us"] if name in bare else 1
            lines.append(load_line(name, connections, seen) + f" {ratio:.2f} |")
    return lines


def load_line(name, connections, seen):
    return (f"| {name} | {connections} | {seen['p50_us']:,.0f} | {seen['p99_us']:,.0f} | {seen['rps']:,.0f} | "
            f"{seen['cpu_us']:,.0f} | {seen['faults']:.2f} | {seen['refused']:.0f} |")


def cold_lines(rows):
    lines = [
        "## Cold start, HTTP included", "",
        "*Over warm*: the first call of a new environment of a known package, half a second after anything else, less a warm "
        "call. *Of it init*: what the REPORT line says. *Nothing ahead*: the same where no guest is booted ahead. *New "
        "function*: its package is unpacked as well. *Fresh process*: the bare server from its start to its first answer; "
        "of items-api, `node -e require(bundle)`. CPU of all processes of a side.", "",
        "| | over warm ms | whole call ms (min to max) | of it init | of it handler | CPU ms | nothing ahead ms | new function ms | fresh process ms | its CPU ms | ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"| {name} | not measured: {row['error']} | | | | | | | | | |")
            continue
        shown = {key: "–" if value is None else f"{value:.1f}" for key, value in row.items()}
        ratio = f"{row['extra_ms'] / row['fresh_ms']:.3f}" if row["fresh_ms"] else "–"
        lines.append(
            f"| {name} | {shown['extra_ms']} | {shown['environment_ms']} ({shown['environment_min_ms']} to "
            f"{shown['environment_max_ms']}) | {shown['init_ms']} | {shown['handler_ms']} | {shown['cpu_ms']} | "
            f"{shown['empty_ms']} | {shown['created_ms']} | {shown['fresh_ms']} | {shown['fresh_cpu_ms']} | {ratio} |")
    return lines


def idle_lines(row):
    return [
        "## Idle server, nothing deployed", "",
        f"Ready after {row['ready_ms']:.0f} ms ({row['ready_first_ms']:.0f} ms the first time in a new folder); "
        f"{row['pss_mib']:.1f} MiB PSS in {row['processes']} processes.",
    ]


def table_lines(rows):
    lines = [
        "## DynamoDB interface, 1 KB items, signatures not verified (`dev`)", "",
        f"Every PutItem is on disk before its answer; one 4 KiB append with fdatasync takes {rows['flush_us']:,.0f} µs here.", "",
        "| | connections | p50 µs | p99 µs | requests/s | CPU µs/request | page faults/request | not 2xx |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for connections in CONNECTIONS:
        lines += [load_line(name, connections, rows[name][connections]) for name in ("PutItem", "GetItem")]
    return lines


if __name__ == "__main__":
    main()
