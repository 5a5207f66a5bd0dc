#!/usr/bin/env python3
"""Measures Dunlin beside its peers in one run, and prints a report and JSON.

    python3 benches/run.py [--dunlin FILE] [--load FILE] [--rounds N] [--seconds S] [--only PART…] [--no-save]

Parts, in `parts/`: `idle` (time to ready, memory), `standing` (processor time with a thousand functions that nobody
calls), `cold` (first calls beside fresh processes), `burst` (many first calls at once), `warm` (function URLs beside bare
servers, interleaved A-B-A-B), `added` (calls beside their bare parts), `events` (asynchronous ones), `noisy` (a quiet function beside loud ones), `density` (memory
of many environments, guests and functions), `tables` (the DynamoDB interface), `large` (a table of five million items), `wasm` (beside
`wasmtime serve`).

Everything is started here, on loopback and free ports, in a temporary folder, and ended here. Peers that no system has
are installed from the registries into `.cache/peers`; one that cannot be had is skipped, and said so. Figures are medians
of rounds. Absolute times drift on shared machines: the ratios are what counts. Needs the release build of `dunlin` and
`load` (`cargo build --release -p server -p load`). The last whole run is kept in benches/results/latest.md.

Start reading at `main`. What parts share is in bench.py; machine figures are read in machine.py, the platform is driven in
dunlin.py, functions and peers are in packages.py, HTTP calls in calls.py.
"""
import argparse
import datetime
import importlib
import json
import os
import shutil
import sys
import tempfile

import machine
from bench import Bench, say

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
PARTS = ("idle", "standing", "cold", "burst", "warm", "added", "events", "noisy", "density", "tables", "large", "wasm")


def main():
    options = parse_options()
    folder = tempfile.mkdtemp(prefix="dunlin-bench-")
    os.chmod(folder, 0o755)
    parts = {name: importlib.import_module(f"parts.{name}") for name in PARTS if name in options.only}
    found, bench = {}, None
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine.description(),
        "command": " ".join(["python3 benches/run.py"] + sys.argv[1:]),
        "rounds": options.rounds,
    }
    try:
        bench = Bench(options, folder)
        for name, part in parts.items():
            say(f"{name} …")
            found[name] = part.measure(bench)
    finally:
        if bench:
            bench.end()
        shutil.rmtree(folder, ignore_errors=True)
    text = report(about, parts, found)
    print(text)
    print(json.dumps({**about, **found}))
    if not options.no_save and len(parts) == len(PARTS):
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


def report(about, parts, found):
    lines = [
        "# Benchmarks, last run", "",
        f"{about['date']}; `{about['command']}`; {about['machine']}. Client and servers share the machine; medians of "
        f"{about['rounds']} interleaved rounds. Ratios count, absolute times drift.", "",
        "| promised | measured | wanted | met |", "|---|---|---|---|",
    ]
    for name, part in parts.items():
        for words, (figure, limit, met) in part.promises(found[name]).items():
            lines.append(f"| {words} | {figure} | {limit} | {'yes' if met else '**no**'} |")
    for name, part in parts.items():
        lines += ["", *part.lines(found[name])]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
