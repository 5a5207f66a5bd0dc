"""PutItem and GetItem of 1 KB items through the DynamoDB interface."""
import json

import machine
from bench import load_line, medians
from dunlin import authorization

CONNECTIONS = (1, 16, 64)


def measure(bench):
    bench.server.target("dynamodb", "DynamoDB_20120810.CreateTable", {
        "TableName": "Bench", "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
    })
    puts = [call(bench, "PutItem", {"Item": item(n)}) for n in range(2000)]
    gets = [call(bench, "GetItem", {"Key": {"id": {"S": f"item-{n}"}}}) for n in range(2000)]
    bench.load(bench.server, 16, puts, 2000)
    rows = {"flush_us": machine.flush_us(bench.folder), "PutItem": {}, "GetItem": {}}
    for connections in CONNECTIONS:
        samples = {"PutItem": [], "GetItem": []}
        for _ in range(bench.options.rounds):
            samples["PutItem"].append(bench.load(bench.server, connections, puts))
            samples["GetItem"].append(bench.load(bench.server, connections, gets))
        for name, seen in samples.items():
            rows[name][connections] = medians(seen)
    return rows


def call(bench, operation, body):
    text = json.dumps({"TableName": "Bench", **body}).encode()
    head = (f"POST / HTTP/1.1\r\nHost: 127.0.0.1:{bench.server.port}\r\nAuthorization: {authorization('dynamodb')}\r\n"
            f"X-Amz-Date: 20260101T000000Z\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\n"
            f"Content-Type: application/x-amz-json-1.0\r\nContent-Length: {len(text)}\r\n\r\n")
    return head.encode() + text


def item(number):
    return {"id": {"S": f"item-{number}"}, "count": {"N": str(number)}, "text": {"S": "x" * 960}}


def promises(_found):
    return {}


def lines(found):
    text = [
        "## DynamoDB interface, 1 KB items, signatures not verified (`dev`)", "",
        f"Every PutItem is on disk before its answer; one 4 KiB append with fdatasync takes {found['flush_us']:,.0f} µs here.", "",
        "| | connections | p50 µs | p99 µs | requests/s | CPU µs/request | page faults/request | not 2xx |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for connections in CONNECTIONS:
        text += [load_line(name, connections, found[name][connections]) for name in ("PutItem", "GetItem")]
    return text
