#!/usr/bin/env python3
"""Measures the embedded store beside raw SQLite, redb, LMDB and fjall in one run, and prints a table and JSON.

    python3 benches/store.py [--short] [--rounds N] [--only PART…] [--no-save]

Parts: `commits` (durable, two puts and one version check, 1 to 64 committers), `sustained` (64 committers for two
minutes: rate, log and memory over time), `reads` (gets of a million keys, ranges of 100), `queue` (half a million
messages through a queue of 5,000).

Each figure is a process of its own, so that its memory and CPU are its own; rounds go A-B-A-B over the subjects, with a
probe of the disk in each; figures are medians of rounds. `--short` takes minutes off, not subjects. Needs
`cargo build --release --manifest-path benches/store/Cargo.toml --target-dir target/store-bench`. The last whole run is
kept in benches/results/store.md.

Start reading at `main`; what is measured stands in benches/store/src/parts.rs.
"""
import argparse
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

import machine

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PROGRAM = os.path.join(ROOT, "target", "store-bench", "release", "store-bench")
PARTS = ("commits", "sustained", "reads", "queue")
SUBJECTS = ("dunlin", "sqlite", "redb", "lmdb", "fjall")
# Of commits only: a group commit that keeps no tree, which shows what a flush in flight and one's own cost alone.
COMMITTED = SUBJECTS + ("log",)
READERS = ("dunlin", "sqlite", "sqlite-large", "redb", "lmdb", "fjall")
COMMITTERS = (1, 4, 16, 64)
# The figures that the project promises; a run says whether they were met.
FLUSH_MORE_US, RATE_MIN, LOG_MIB_MAX, RAW_MIN, ANONYMOUS_MIB_MAX = 100, 25_000, 64, 0.9, 64
# How much of the rate of the first tenth or stretch is left of the last one, where it is to be flat.
FLAT_MIN = 0.8


def main():
    options = parse_options()
    found = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.description(),
        "command": " ".join(["python3 benches/store.py"] + sys.argv[1:]),
        "rounds": options.rounds,
    }
    folder = tempfile.mkdtemp(prefix="store-", dir=os.path.join(ROOT, "target"))
    try:
        bench = Bench(options, folder)
        for part in PARTS:
            if part in options.only:
                found[part] = getattr(bench, part)()
                # At once, as a later part may fail or be stopped.
                print(json.dumps({part: found[part]}), file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found["verdicts"] = verdicts(found)
    text = report(found)
    print(text)
    print(json.dumps(found))
    if not options.no_save and set(options.only) == set(PARTS):
        os.makedirs(os.path.join(HERE, "results"), exist_ok=True)
        with open(os.path.join(HERE, "results", "store.md"), "w", encoding="utf-8") as kept:
            kept.write(text)


def parse_options():
    parser = argparse.ArgumentParser(description="Measures the embedded store beside its peers.")
    parser.add_argument("--short", action="store_true", help="one round, two seconds a figure, 20 s sustained")
    parser.add_argument("--rounds", type=int, default=None)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--no-save", action="store_true", help="leave benches/results/store.md as it is")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.short else 3)
    options.seconds, options.sustained = (2, 20) if options.short else (4, 120)
    if not os.access(PROGRAM, os.X_OK):
        parser.error(f"{PROGRAM} is missing: its build is named in this file's head")
    return options


class Bench:
    """The runs, in one folder of the disk that is measured."""

    def __init__(self, options, folder):
        self.options = options
        self.folder = folder

    def run(self, part, subject, seconds=0, workers=1, keep=False):
        """The figures of one process."""
        folder = os.path.join(self.folder, subject.partition("-")[0] if keep else "fresh")
        print(f"{part} {subject} {workers} …", file=sys.stderr, flush=True)
        command = [PROGRAM, part, subject, folder, str(seconds), str(workers)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3_600)
        if done.returncode != 0:
            raise RuntimeError(f"{part} of {subject}: {done.stderr.strip()}")
        figures = json.loads(done.stdout)
        figures["page_cache_mib"] = page_cache_mib(folder)
        if not keep:
            shutil.rmtree(folder)
        return figures

    def commits(self):
        seen = {count: {name: [] for name in ("probe",) + COMMITTED} for count in COMMITTERS}
        for _ in range(self.options.rounds):
            for count, rows in seen.items():
                for name in COMMITTED:
                    # Before each, so that the probe sees what the subjects see of the machine.
                    rows["probe"].append(self.run("probe", "disk", 1))
                    rows[name].append(self.run("commits", name, self.options.seconds, count))
        return {count: {name: medians(samples) for name, samples in rows.items()} for count, rows in seen.items()}

    def sustained(self):
        return {"probe": self.run("probe", "disk", 2), "dunlin": self.run("sustained", "dunlin", self.options.sustained, 64)}

    def reads(self):
        kinds = [("gets", 1), ("gets", 2), ("ranges", 1), ("ranges", 2)]
        found = {"fill": {name: self.run("fill", name, keep=True) for name in SUBJECTS}}
        seen = {kind: {name: [] for name in READERS} for kind in kinds}
        for _ in range(self.options.rounds):
            for (part, workers), rows in seen.items():
                for name, samples in rows.items():
                    samples.append(self.run(part, name, self.options.seconds / 2, workers, keep=True))
        for (part, workers), rows in seen.items():
            found[f"{part} {workers}"] = {name: medians(samples) for name, samples in rows.items()}
        for name in SUBJECTS:
            shutil.rmtree(os.path.join(self.folder, name))
        return found

    def queue(self):
        return {name: self.run("queue", name) for name in SUBJECTS}


def page_cache_mib(folder):
    """What the kernel holds of the files there; none if the tool that tells is not installed."""
    files = [os.path.join(above, name) for above, _, names in os.walk(folder) for name in names]
    try:
        done = subprocess.run(["fincore", "-b", "-n", "-o", "RES"] + files, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return sum(int(word) for word in done.stdout.split()) / 1024 / 1024


def medians(samples):
    """Each figure's median over the rounds."""
    row = {}
    for name in samples[0]:
        values = [sample[name] for sample in samples if sample[name] is not None]
        row[name] = statistics.median(values) if values else None
    # The worst counts, not the middle.
    if "anonymous_mib" in row:
        row["anonymous_mib"] = max(sample["anonymous_mib"] for sample in samples)
    return row


def verdicts(found):
    """The promised figures: [(words, figure, comparison, limit, met)]."""
    checked = []

    def at_most(words, figure, limit):
        checked.append((words, figure, "at most", limit, figure <= limit))

    def at_least(words, figure, limit):
        checked.append((words, figure, "at least", limit, figure >= limit))

    anonymous = []
    if "commits" in found:
        for count, rows in found["commits"].items():
            own, probe = rows["dunlin"], rows["probe"]
            if count == 1:
                at_most("one committer, p50 µs: one flush and 100 µs", own["p50_us"], probe["append_p50_us"] + FLUSH_MORE_US)
            limit = probe["append_p99_us"] + 2 * probe["append_p50_us"]
            at_most(f"{count} committers, p99 µs: that of the bare flush and twice its p50", own["p99_us"], limit)
            anonymous.append(own["anonymous_mib"])
        rows = found["commits"][64]
        at_least("64 committers, commits/s of raw SQLite's batched", rows["dunlin"]["rate"] / rows["sqlite"]["rate"], RAW_MIN)
    if "sustained" in found:
        own = found["sustained"]["dunlin"]
        at_least("64 committers sustained, commits/s", own["rate"], RATE_MIN)
        at_least("of that, the last quarter to the first", flatness(own["rates"]), FLAT_MIN)
        at_most("log, MiB", max(own["log_mib"]), LOG_MIB_MAX)
        anonymous.append(own["anonymous_mib"])
    if "reads" in found:
        for kind in ("gets 1", "gets 2", "ranges 1", "ranges 2"):
            rows = found["reads"][kind]
            at_least(f"{kind.replace(' 1', ', one reader').replace(' 2', ', two readers')}: rate to raw SQLite's",
                     rows["dunlin"]["rate"] / rows["sqlite"]["rate"], RAW_MIN)
            anonymous.append(rows["dunlin"]["anonymous_mib"])
        anonymous.append(found["reads"]["fill"]["dunlin"]["anonymous_mib"])
    if "queue" in found:
        own = found["queue"]["dunlin"]
        at_least("queue, messages/s: the last tenth to the first", own["rates"][-1] / own["rates"][0], FLAT_MIN)
        anonymous.append(own["anonymous_mib"])
    if anonymous:
        at_most("anonymous private memory, MiB, the highest of all", max(anonymous), ANONYMOUS_MIB_MAX)
    return checked


def flatness(rates):
    quarter = max(1, len(rates) // 4)
    return statistics.median(rates[-quarter:]) / statistics.median(rates[:quarter])


# The report

def report(found):
    lines = [
        "# The embedded store beside its peers, last run", "",
        f"{found['date']}; `{found['command']}`; {found['machine']}. Callers and store share the machine and the process; "
        f"medians of {found['rounds']} interleaved rounds. Every commit is on disk before it is answered. The peers have a "
        "plain group commit thread before them; without one, each of their flushes carries one commit.", "",
        "| promised | measured | | met |", "|---|---|---|---|",
    ]
    lines += [f"| {words} | {shown(figure)} | {comparison} {shown(limit)} | {'yes' if met else '**no**'} |"
              for words, figure, comparison, limit, met in found["verdicts"]]
    sections = {"commits": commit_lines, "sustained": sustained_lines, "reads": read_lines, "queue": queue_lines}
    for part, section in sections.items():
        if part in found:
            lines += [""] + section(found[part])
    return "\n".join(lines) + "\n"


def shown(figure):
    if figure is None:
        return "–"
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.2f}" if figure < 10 else f"{figure:.1f}"


def commit_lines(rows):
    lines = ["## Durable commits: two puts of 100 bytes on condition of one version", "",
             "| | committers | commits/s | p50 µs | p99 µs | p99.9 µs | CPU µs/commit | page faults/commit | anonymous MiB | page cache MiB |",
             "|---|---|---|---|---|---|---|---|---|---|"]
    for count, subjects in rows.items():
        probe = subjects["probe"]
        lines.append(f"| *append of 512 bytes, fdatasync* | *1* | | {shown(probe['append_p50_us'])} | {shown(probe['append_p99_us'])} | | | | | |")
        lines.append(f"| *overwrite of 4 KiB, DSYNC* | *1* | | {shown(probe['overwrite_p50_us'])} | {shown(probe['overwrite_p99_us'])} | | | | | |")
        for name in COMMITTED:
            row = subjects[name]
            lines.append(f"| {name} | {count} | " + " | ".join(shown(row[field]) for field in (
                "rate", "p50_us", "p99_us", "p999_us", "cpu_us", "faults", "anonymous_mib", "page_cache_mib")) + " |")
    return lines


def sustained_lines(rows):
    own = rows["dunlin"]
    lines = ["## 64 committers, sustained", "",
             f"{shown(own['rate'])} commits/s, p50 {shown(own['p50_us'])} µs, p99 {shown(own['p99_us'])} µs, p99.9 "
             f"{shown(own['p999_us'])} µs, {shown(own['cpu_us'])} CPU µs a commit, {shown(own['faults'])} page faults a "
             f"commit; page cache {shown(own['page_cache_mib'])} MiB.", "",
             "| after s | commits/s | log MiB | the tree's own log MiB | anonymous MiB |", "|---|---|---|---|---|"]
    for number, figures in enumerate(zip(own["rates"], own["log_mib"], own["tree_log_mib"], own["anonymous_course_mib"])):
        lines.append(f"| {(number + 1) * 10} | " + " | ".join(map(shown, figures)) + " |")
    return lines


def read_lines(rows):
    lines = ["## Reads: a million keys with values of 200 bytes", "",
             "`sqlite` has the settings of Dunlin's tree; `sqlite-large` 64 MB of cache for each connection and the file mapped.", "",
             "| | | readers | per s | p50 µs | p99 µs | CPU µs each | page faults each | anonymous MiB | mapped MiB | page cache MiB |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for kind in ("gets 1", "gets 2", "ranges 1", "ranges 2"):
        part, workers = kind.split()
        for name in READERS:
            row = rows[kind][name]
            lines.append(f"| {name} | {part} | {workers} | " + " | ".join(shown(row[field]) for field in (
                "rate", "p50_us", "p99_us", "cpu_us", "faults", "anonymous_mib", "mapped_mib", "page_cache_mib")) + " |")
    lines += ["", "Filled in random order, a thousand keys a commit: " + "; ".join(
        f"{name} {shown(row['rate'])} keys/s, {shown(row['cpu_us'])} CPU µs each, {shown(row['anonymous_mib'])} MiB anonymous"
        for name, row in rows["fill"].items()) + "."]
    return lines


def queue_lines(rows):
    lines = ["## A queue: 500,000 messages, depth 5,000, 100 put in and 100 taken at a time", "",
             "| | messages/s, first tenth | last tenth | head scan p50 µs, first tenth | last tenth | CPU µs/message | anonymous MiB | page cache MiB |",
             "|---|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        lines.append(f"| {name} | {shown(row['rates'][0])} | {shown(row['rates'][-1])} | {shown(row['scans_us'][0])} | "
                     f"{shown(row['scans_us'][-1])} | {shown(row['cpu_us'])} | {shown(row['anonymous_mib'])} | {shown(row['page_cache_mib'])} |")
    return lines


if __name__ == "__main__":
    main()
