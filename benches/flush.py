#!/usr/bin/env python3
"""What flushing 512 bytes takes on this disk, alone and beside what a store writes into its tree: no store takes part.

    python3 benches/flush.py [--seconds N] [--mib N] [--every S]

Beside: every S seconds (1) another process appends N MiB (16) to a file and flushes it, then writes as much over pages of
another file, scattered, and flushes that: SQLite's log and its file, once for each generation of the store's overlay. Both
are measured in turns. What a commit's p99 can be while a tree is written behind it is seen here, whatever the store.
"""
import argparse
import multiprocessing
import os
import random
import shutil
import statistics
import tempfile
import time

PAGE = 4_096
FILE_MIB = 128


def flushes(folder, seconds):
    """Microseconds of each flush."""
    taken = []
    with open(os.path.join(folder, "append"), "wb", buffering=0) as file:
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            file.write(b"\7" * 512)
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - begun) * 1e6)
    return sorted(taken)


def write_tree(folder, mib, every):
    """Writes as an applier does, until it is ended."""
    block = os.urandom(PAGE)
    with open(os.path.join(folder, "log"), "wb", buffering=0) as log, open(os.path.join(folder, "file"), "r+b", buffering=0) as file:
        while True:
            begun = time.perf_counter()
            log.seek(0)
            for _ in range(mib * 1024 * 1024 // PAGE):
                log.write(block)
            os.fdatasync(log.fileno())
            for _ in range(mib * 1024 * 1024 // PAGE):
                os.pwrite(file.fileno(), block, random.randrange(FILE_MIB * 1024 * 1024 // PAGE) * PAGE)
            os.fdatasync(file.fileno())
            time.sleep(max(0, begun + every - time.perf_counter()))


def main():
    parser = argparse.ArgumentParser(description="Measures flushes, alone and beside a tree's.")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--mib", type=int, default=16)
    parser.add_argument("--every", type=float, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="flush-", dir=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "target"))
    try:
        with open(os.path.join(folder, "file"), "wb") as file:
            file.write(bytes(FILE_MIB * 1024 * 1024))
            os.fsync(file.fileno())
        seen = {"alone": [], "beside": []}
        for _ in range(options.rounds):
            seen["alone"].append(flushes(folder, options.seconds))
            writer = multiprocessing.Process(target=write_tree, args=(folder, options.mib, options.every))
            writer.start()
            try:
                seen["beside"].append(flushes(folder, options.seconds))
            finally:
                writer.kill()
                writer.join()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for name, rounds in seen.items():
        at = [statistics.median(taken[int(len(taken) * part)] for taken in rounds) for part in (0.5, 0.99, 0.999)]
        print("%-6s p50 %6.0f µs  p99 %6.0f µs  p99.9 %6.0f µs" % (name, *at))


if __name__ == "__main__":
    main()
