"""What every part of a run uses: one server, its peers, steady load, medians.

A part is a module of `parts/` with three functions: `measure(bench)` gives what was found, `promises(found)` the promised
figures as `{words: (figure, limit, met)}`, and `lines(found)` its section of the report.
"""
import json
import os
import statistics
import subprocess
import sys

import machine
from calls import wait_for_answer
from dunlin import Server


# Of each stretch of load: what comes before it, and the part of it whose latencies do not count.
BEFORE_MS, SETTLE_MS = 500, 50


def say(words):
    print(words, file=sys.stderr, flush=True)


def at_most(figure, limit):
    return round(figure, 2), f"≤ {limit:.3g}", figure <= limit


def at_least(figure, limit):
    return round(figure, 2), f"≥ {limit:.3g}", figure >= limit


class Peer:
    """A server to compare with."""

    def __init__(self, command, port):
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.port = port
        self.pid = self.process.pid
        wait_for_answer(port, "/")

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


class Bench:
    """One server, its peers, and how load is made."""

    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.peers = []
        self.server = Server(options.dunlin, folder)

    def end(self):
        self.server.stop()
        for peer in self.peers:
            peer.stop()

    def restart(self):
        """The same folder, a new server."""
        self.server.stop()
        self.server = Server(self.options.dunlin, self.folder)

    def fresh(self, name, *arguments):
        """A server of its own in an empty folder; the caller stops it."""
        folder = os.path.join(self.folder, name)
        os.mkdir(folder, 0o755)
        return Server(self.options.dunlin, folder, *arguments)

    def peer(self, make):
        """A running peer, or nothing, said loudly, where it cannot be had."""
        port = machine.free_port()
        try:
            peer = Peer(make(port), port)
        except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
            say(f"SKIPPED: {make.__name__} cannot be had here: {error}")
            return None
        self.peers.append(peer)
        return peer

    def load(self, side, connections, requests, run_ms=None, pinned=None):
        """Steady load on a side, by one thread; with `pinned` that thread has this processor to itself.

        A stretch that does not count comes first: another side had its turn meanwhile, and a platform that scales to zero
        may have let its environments go and make ready what it took again.
        """
        run_ms = run_ms or int(self.options.seconds * 1000)
        file = os.path.join(self.folder, "requests")
        with open(file, "wb") as held:
            for request in requests:
                held.write(b"%d\n" % len(request) + request)
        command = [self.options.load, f"127.0.0.1:{side.port}", str(connections)]
        if pinned is not None:
            command = ["taskset", "-c", str(pinned), *command]
        run([*command, "0", str(BEFORE_MS), file])
        spent = machine.Spent(side.pid)
        seen = run([*command, str(SETTLE_MS), str(run_ms), file])
        cpu_us, minor, major = spent.since()
        # Spent over the whole, so it is divided by all answers.
        answers = max(1, seen["answers_in_all"])
        return {**seen, "cpu_us": cpu_us / answers, "faults": minor / answers, "major_faults": major}


def run(command):
    """What `load` saw."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise RuntimeError(f"load failed: {done.stderr}")
    return json.loads(done.stdout)


def medians(samples):
    """Each figure's median over the rounds; refused answers are summed."""
    row = {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}
    row["refused"] = sum(sample["refused"] for sample in samples)
    return row


def load_line(name, connections, seen):
    return (f"| {name} | {connections} | {seen['p50_us']:,.0f} | {seen['p99_us']:,.0f} | {seen['rps']:,.0f} | "
            f"{seen['cpu_us']:,.0f} | {seen['faults']:.2f} | {seen['refused']:.0f} |")
