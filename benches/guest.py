#!/usr/bin/env python3
"""Measures what a managed guest itself spends on a call: processor time and how often it falls asleep, without a server.

    python3 benches/guest.py [--language node|python] [--socket message|stream] [--calls N] [--runtimes FOLDER]

Two guests take turns, so that each of them sleeps before its answer is read, as under load. The event is that of a plain
GET of a function URL. `stream` is the kind of socket that the channel was before it kept the bounds of writes.
"""
import argparse
import json
import os
import socket
import struct
import subprocess
import sys
import time

import machine

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
LOAD, INVOKE = 1, 2
KINDS = {"message": socket.SOCK_SEQPACKET, "stream": socket.SOCK_STREAM}
COMMANDS = {"node": ["node", "nodejs/bootstrap.cjs"], "python": [os.path.realpath(sys.executable), "-S", "python/bootstrap.py"]}
HANDLERS = {"node": "index.handler", "python": "handler.handler"}
EVENT = {
    "version": "2.0", "routeKey": "$default", "rawPath": "/", "rawQueryString": "",
    "headers": {
        "host": "127.0.0.1:4566", "x-amzn-trace-id": "Root=1-5e6722a7-cc56aaaa46db7ae02d4da47e",
        "x-forwarded-for": "127.0.0.1", "x-forwarded-port": "4566", "x-forwarded-proto": "http",
    },
    "requestContext": {
        "accountId": "anonymous", "apiId": "a" * 32, "domainName": "a" * 32 + ".lambda-url.us-east-1.localhost", "domainPrefix": "a" * 32,
        "http": {"method": "GET", "path": "/", "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": ""},
        "requestId": "0d7c0f41-9c3c-4c0a-9bd7-8e4a4f0a6b11", "routeKey": "$default", "stage": "$default",
        "time": "04/Mar/2020:19:15:17 +0000", "timeEpoch": 1583349317135,
    },
    "isBase64Encoded": False,
}


class Guest:
    """A guest that has loaded the handler of functions/node or functions/python."""

    def __init__(self, language, kind, runtimes):
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, KINDS[kind])
        command, script = COMMANDS[language][:-1], os.path.join(runtimes, COMMANDS[language][-1])
        as_third = lambda: os.dup2(theirs.fileno(), 3)
        self.process = subprocess.Popen([*command, script], preexec_fn=as_third, close_fds=False, stdout=subprocess.DEVNULL)
        theirs.close()
        self.channel.recv(1 << 16)
        order = {"root": os.path.join(HERE, "functions", language), "handler": HANDLERS[language], "environment": {}, "cold": True}
        self.say(LOAD, json.dumps(order).encode())
        self.channel.recv(1 << 16)

    def say(self, kind, body):
        self.channel.send(struct.pack("<IB", len(body) + 1, kind) + body)

    def call(self, number):
        meta = {
            "requestId": f"0d7c0f41-9c3c-4c0a-9bd7-{number:012}", "deadlineMs": 1 << 41, "traceId": f"Root=1-5e6722a7-{number:024}",
            "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:f",
        }
        meta = json.dumps(meta).encode()
        self.say(INVOKE, struct.pack("<I", len(meta)) + meta + json.dumps(EVENT).encode())

    def spent(self):
        """CPU ns, and how often it gave its processor away."""
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            switches = next(int(line.split()[1]) for line in status if line.startswith("voluntary"))
        return sum(machine.cpu_ns(self.process.pid).values()), switches

    def end(self):
        self.channel.close()
        self.process.wait()


def calls(guests, count):
    for number in range(count):
        for guest in guests:
            guest.call(number)
        time.sleep(0.0003)
        for guest in guests:
            guest.channel.recv(1 << 16)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--language", choices=COMMANDS, default="node")
    options.add_argument("--socket", choices=KINDS, default="message")
    options.add_argument("--calls", type=int, default=3000)
    options.add_argument("--runtimes", default=os.path.join(ROOT, "runtimes"))
    options = options.parse_args()
    guests = [Guest(options.language, options.socket, options.runtimes) for _ in range(2)]
    try:
        calls(guests, 3000)
        before = [guest.spent() for guest in guests]
        calls(guests, options.calls)
        after = [guest.spent() for guest in guests]
    finally:
        for guest in guests:
            guest.end()
    cpu_ns, switches = (sum(new[at] - old[at] for old, new in zip(before, after, strict=True)) for at in (0, 1))
    each = options.calls * len(guests)
    print(f"{options.language}, {options.socket}: {cpu_ns / each / 1e3:.1f} CPU µs/call, {switches / each:.2f} switches/call")


if __name__ == "__main__":
    main()
