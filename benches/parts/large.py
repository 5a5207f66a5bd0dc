"""A table of five million items of 200 bytes: how soon a server with it is ready, what memory it takes, and whether reads notice.

The table is filled by TransactWriteItems through several processes, then the server is started again on its folder. What counts is
the time to ready, the anonymous memory of the server beside one with a small table, and reads of single items and pages
beside a small table in the same server, interleaved. Of both as many different items are read, and the small one has no more than
those, so that the processors' caches hold as much of either. Filling takes some minutes; `DUNLIN_LARGE_ITEMS` is another number of
items.
"""
import http.client
import json
import multiprocessing
import os
import random
import time

import machine
from bench import at_least, at_most, medians
from dunlin import authorization
from parts.tables import call, make, send

ITEMS = int(os.environ.get("DUNLIN_LARGE_ITEMS", 5_000_000))
#: Items of one partition, which a query reads in a page.
PARTITION = 100
#: How many partitions are queried, and how many single items are asked for.
PARTITIONS, SINGLE = 200, 2_000
SMALL = PARTITIONS * PARTITION
FILLERS = 4
CONNECTIONS = 16
#: MiB of anonymous memory that the large table may add, ms that it may take until ready, and the part of the small table's rate
#: that reads must reach.
MORE_MIB, READY_MS, RATE = 100, 1_000, 0.9


def item(number):
    return {"id": {"S": f"p-{number // PARTITION}"}, "at": {"N": str(number % PARTITION)}, "text": {"S": "x" * 182}}


def fill(port, table, numbers):
    """Writes the items of these numbers, a hundred in a call and hence in a commit."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {
        "Authorization": authorization("dynamodb"), "X-Amz-Date": "20260101T000000Z",
        "X-Amz-Target": "DynamoDB_20120810.TransactWriteItems", "Content-Type": "application/x-amz-json-1.0",
    }
    for first in range(numbers.start, numbers.stop, 100):
        puts = [{"Put": {"TableName": table, "Item": item(number)}} for number in range(first, min(first + 100, numbers.stop))]
        connection.request("POST", "/", json.dumps({"TransactItems": puts}), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"TransactWriteItems: {answer.status} {text[:400]}")


def anonymous_mib(root):
    """Anonymous memory of a process and everything below it."""
    kib = 0
    for pid in machine.tree(root):
        try:
            with open(f"/proc/{pid}/status", encoding="utf-8", errors="replace") as status:
                kib += sum(int(line.split()[1]) for line in status if line.startswith("RssAnon:"))
        except OSError:
            continue
    return kib / 1024


def measure(bench):
    # In the bench's own folder, so that the server of it is the one that is started again.
    port = bench.server.port
    make(port, "Small", {"id": "S", "at": "N"})
    fill(port, "Small", range(SMALL))
    bench.restart()
    time.sleep(1)
    found = {"small_ready_ms": bench.server.ready_ms, "small_mib": anonymous_mib(bench.server.pid)}
    port = bench.server.port
    make(port, "Large", {"id": "S", "at": "N"})
    step = -(-ITEMS // FILLERS)
    begin = time.perf_counter()
    fillers = [
        multiprocessing.Process(target=fill, args=(port, "Large", range(first, min(first + step, ITEMS))))
        for first in range(0, ITEMS, step)
    ]
    for filler in fillers:
        filler.start()
    for filler in fillers:
        filler.join()
        if filler.exitcode:
            raise RuntimeError("the table could not be filled")
    found["items_per_s"] = ITEMS / (time.perf_counter() - begin)
    bench.restart()
    time.sleep(1)
    found["ready_ms"], found["mib"] = bench.server.ready_ms, anonymous_mib(bench.server.pid)
    described = send(bench.server.port, "DescribeTable", {"TableName": "Large"})["Table"]
    assert described["ItemCount"] == ITEMS, described
    found["rows"] = reads(bench)
    found["after_reads_mib"] = anonymous_mib(bench.server.pid)
    return found


def reads(bench):
    """Requests/s of each read, of both tables by turns."""
    port, chance = bench.server.port, random.Random(7)
    rows = {}
    for name, count, apart in (("GetItem", SINGLE, 1), ("Query of 100", PARTITIONS, PARTITION)):
        requests = {}
        for table, items in (("Small", SMALL), ("Large", ITEMS)):
            numbers = chance.sample(range(0, items, apart), count)
            requests[table] = [one(port, name, table, number) for number in numbers]
        samples = {table: [] for table in requests}
        for _ in range(bench.options.rounds):
            for table, calls in requests.items():
                samples[table].append(bench.load(bench.server, CONNECTIONS, calls))
        rows[name] = {table: medians(seen) for table, seen in samples.items()}
    return rows


def one(port, name, table, number):
    partition, at = f"p-{number // PARTITION}", str(number % PARTITION)
    if name == "GetItem":
        return call(port, "GetItem", {"TableName": table, "Key": {"id": {"S": partition}, "at": {"N": at}}})
    return call(port, "Query", {
        "TableName": table, "KeyConditionExpression": "id = :id", "ExpressionAttributeValues": {":id": {"S": partition}},
    })


def promises(found):
    promised = {
        "a table of millions of items, ms to ready": at_most(found["ready_ms"], READY_MS),
        "what it adds, MiB of anonymous memory": at_most(found["mib"] - found["small_mib"], MORE_MIB),
    }
    for name, row in found["rows"].items():
        ratio = row["Large"]["rps"] / row["Small"]["rps"]
        promised[f"{name} of it: requests/s to those of a table of {SMALL:,}"] = at_least(ratio, RATE)
    return promised


def lines(found):
    text = [
        f"## A table of {ITEMS:,} items", "",
        f"Filled at {found['items_per_s']:,.0f} items/s. Ready after {found['ready_ms']:.0f} ms ({found['small_ready_ms']:.0f} with "
        f"{SMALL:,} items); {found['mib']:.0f} MiB of anonymous memory ({found['small_mib']:.0f}), {found['after_reads_mib']:.0f} "
        "after the reads.", "", f"| {CONNECTIONS} connections | requests/s, {SMALL:,} items | requests/s, {ITEMS:,} items |", "|---|---|---|",
    ]
    for name, row in found["rows"].items():
        text.append(f"| {name} | {row['Small']['rps']:,.0f} | {row['Large']['rps']:,.0f} |")
    return text
