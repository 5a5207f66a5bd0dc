"""The DynamoDB interface beside dynalite, and how soon a change of a table reaches a function.

Items of 1 KB; what is queried are a hundred items of 200 bytes in one partition. Dunlin has each write on the disk before
its answer, dynalite keeps all in memory. Amazon's own DynamoDB Local is not measured: its licence does not allow it.
What each side takes for an HTTP answer that says no more than that it is there is measured as well: nothing is below it.
"""
import json
import os
import statistics
import subprocess
import time

import machine
from bench import at_least, at_most, load_line, medians
from calls import ask, connected
from dunlin import authorization, zipped
from packages import installed, python_runtime

CONNECTIONS = (1, 16, 64)
#: Operation, connections, and how many times dynalite's rate is wanted.
WANTED = [
    ("PutItem", 16, 1), ("PutItem", 64, 1.5), ("GetItem", 1, 1.5), ("GetItem", 16, 4), ("GetItem", 64, 4), ("Query of 100", 1, 5),
    ("Query of 100", 16, 5), ("Query of 100", 64, 5),
]
#: What a PutItem of one client and the way from a table's change to a handler's first line may take beyond one flush, µs.
PUT_MORE_US, STREAM_MORE_US = 150, 2_000
#: Changes one after another, and how far apart.
CHANGES, APART_S = 200, 0.02
VERSION = "DynamoDB_20120810"
#: Where each side says that it is there.
HEALTH = {"dunlin": "/_dunlin/health", "dynalite": "/"}

#: Says how long ago the change was sent.
CODE = b"""
import time

def handler(event, context):
    now = time.time()
    for record in event["Records"]:
        print("BEGAN", round((now - float(record["dynamodb"]["NewImage"]["sent"]["N"])) * 1e6))
"""


def dynalite_peer(port):
    folder = installed("dynalite", ["npm", "install", "--silent", "--no-fund", "--no-audit", "dynalite@4", "--prefix"])
    return ["node", os.path.join(folder, "node_modules", "dynalite", "cli.js"), "--port", str(port), "--createTableMs", "0"]


def measure(bench):
    sides = {"dunlin": bench.server, "dynalite": bench.peer(dynalite_peer)}
    sides = {name: side for name, side in sides.items() if side}
    requests = {}
    for name, side in sides.items():
        prepare(side)
        requests[name] = {"bare HTTP": [bare(side.port, HEALTH[name])], **operations(side.port)}
        bench.load(side, 16, requests[name]["PutItem"], 2000)
    found, flushed = {"rows": {}}, []
    for operation in requests["dunlin"]:
        found["rows"][operation] = {name: {} for name in sides}
        for connections in CONNECTIONS:
            samples = {name: [] for name in sides}
            for _ in range(bench.options.rounds):
                if operation == "PutItem":
                    # What a flush takes changes from minute to minute.
                    flushed.append(machine.flush_us(bench.folder))
                for name, side in sides.items():
                    samples[name].append(bench.load(side, connections, requests[name][operation]))
            for name, seen in samples.items():
                found["rows"][operation][name][connections] = medians(seen)
    found["flush_us"] = statistics.median(flushed)
    found["stream_us"] = stream_us(bench)
    return found


def prepare(side):
    """The tables, and what is queried."""
    make(side.port, "Bench", {"id": "S"})
    make(side.port, "Rows", {"id": "S", "at": "N"})
    for partition in range(10):
        for first in range(0, 100, 25):
            rows = [
                {"PutRequest": {"Item": {"id": {"S": f"p-{partition}"}, "at": {"N": str(at)}, "text": {"S": "x" * 180}}}}
                for at in range(first, first + 25)
            ]
            send(side.port, "BatchWriteItem", {"RequestItems": {"Rows": rows}})


def make(port, name, keys, **more):
    """A table with these key attributes and their types, once it is there; its description."""
    send(port, "CreateTable", {
        "TableName": name, "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": key, "AttributeType": of} for key, of in keys.items()],
        "KeySchema": [{"AttributeName": key, "KeyType": role} for key, role in zip(keys, ("HASH", "RANGE"))],
        **more,
    })
    while (made := send(port, "DescribeTable", {"TableName": name})["Table"])["TableStatus"] != "ACTIVE":
        time.sleep(0.05)
    return made


def operations(port):
    """Requests by operation."""
    condition = {"TableName": "Rows", "KeyConditionExpression": "id = :id"}
    transaction = [
        {"TransactItems": [{"Put": {"TableName": "Bench", "Item": item(number * 4 + part)}} for part in range(4)]}
        for number in range(500)
    ]
    return {
        "PutItem": [call(port, "PutItem", {"TableName": "Bench", "Item": item(number)}) for number in range(2000)],
        "GetItem": [
            call(port, "GetItem", {"TableName": "Bench", "Key": {"id": {"S": f"item-{number}"}}}) for number in range(2000)],
        "Query of 100": [
            call(port, "Query", {**condition, "ExpressionAttributeValues": {":id": {"S": f"p-{number}"}}}) for number in range(10)],
        "TransactWriteItems of 4": [call(port, "TransactWriteItems", body) for body in transaction],
        "Scan of 1,000": [call(port, "Scan", {"TableName": "Rows"})],
    }


def bare(port, path):
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def call(port, operation, body):
    text = json.dumps(body).encode()
    head = (f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: {authorization('dynamodb')}\r\n"
            f"X-Amz-Date: 20260101T000000Z\r\nX-Amz-Target: {VERSION}.{operation}\r\n"
            f"Content-Type: application/x-amz-json-1.0\r\nContent-Length: {len(text)}\r\n\r\n")
    return head.encode() + text


def send(port, operation, body):
    """One call that must succeed; its answer."""
    command = ["curl", "-sS", "--fail-with-body", f"http://127.0.0.1:{port}/", "-H", f"Authorization: {authorization('dynamodb')}",
               "-H", "X-Amz-Date: 20260101T000000Z", "-H", f"X-Amz-Target: {VERSION}.{operation}",
               "-H", "Content-Type: application/x-amz-json-1.0", "-d", json.dumps(body)]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def item(number):
    return {"id": {"S": f"item-{number}"}, "count": {"N": str(number)}, "text": {"S": "x" * 960}}


def stream_us(bench):
    """Median µs from before a change is sent to the first line of the handler that its stream wakes, in a warm environment."""
    server = bench.server
    made = make(server.port, "Watched", {"id": "S"}, StreamSpecification={"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"})
    server.create_function("watcher", python_runtime(), "handler.handler", zipped({"handler.py": (CODE, 0o644)}))
    mapping = server.call("lambda", "POST", "/2015-03-31/event-source-mappings/", {
        "EventSourceArn": made["LatestStreamArn"], "FunctionName": "watcher", "StartingPosition": "TRIM_HORIZON"})
    while server.call("lambda", "GET", f"/2015-03-31/event-source-mappings/{mapping['UUID']}")["State"] != "Enabled":
        time.sleep(0.05)
    with connected(server.port) as connection:
        for number in range(CHANGES + 1):
            change = {"id": {"S": str(number)}, "sent": {"N": repr(time.time())}}
            ask(connection, call(server.port, "PutItem", {"TableName": "Watched", "Item": change}))
            # The first one starts the environment.
            time.sleep(APART_S if number else 2)
    body = {"logGroupName": "/aws/lambda/watcher", "filterPattern": "BEGAN"}
    for _ in range(100):
        lines_seen = server.target("logs", "Logs_20140328.FilterLogEvents", body)["events"]
        if len(lines_seen) > CHANGES:
            break
        time.sleep(0.1)
    server.call("lambda", "DELETE", f"/2015-03-31/event-source-mappings/{mapping['UUID']}")
    server.delete_function("watcher")
    return statistics.median(int(line["message"].split()[1]) for line in lines_seen[1:])


def promises(found):
    rows, flush_us = found["rows"], found["flush_us"]
    promised = {
        "PutItem, one client, p50 µs: one flush and 150 µs": at_most(rows["PutItem"]["dunlin"][1]["p50_us"], flush_us + PUT_MORE_US),
        "a table's change to the handler's first line, µs: one flush and 2 ms": at_most(found["stream_us"], flush_us + STREAM_MORE_US),
    }
    for operation, connections, times in WANTED:
        if "dynalite" in rows[operation]:
            ratio = rows[operation]["dunlin"][connections]["rps"] / rows[operation]["dynalite"][connections]["rps"]
            promised[f"{operation}, {connections} connections: requests/s to dynalite's"] = at_least(ratio, times)
    return promised


def lines(found):
    text = [
        "## DynamoDB interface, signatures not verified (`dev`)", "",
        f"Every write of Dunlin is on disk before its answer, dynalite keeps all in memory; one 4 KiB append with fdatasync takes "
        f"{found['flush_us']:,.0f} µs here. From before a change is sent to the first line of the function that its stream wakes, "
        f"warm: {found['stream_us']:,.0f} µs (median of {CHANGES}).", "",
        "| | connections | p50 µs | p99 µs | requests/s | CPU µs/request | page faults/request | not 2xx |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for operation, sides in found["rows"].items():
        for connections in CONNECTIONS:
            text += [load_line(f"{operation}, {name}", connections, row[connections]) for name, row in sides.items()]
    return text
