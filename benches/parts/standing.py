"""What a platform costs on which nothing is called: a thousand functions and five hundred aliases."""
import concurrent.futures
import time

import machine
from bench import at_most
from packages import python_package, python_runtime

FUNCTIONS, ALIASES = 1_000, 500
#: After the last of them is made, and how long is looked at.
SETTLE_S, SECONDS = 15, 30


def measure(bench):
    server = bench.fresh("standing")
    try:
        package = python_package()

        def create(number):
            alias = "live" if number < ALIASES else None
            server.create_function(f"f-{number}", python_runtime(), "handler.handler", package, 128, alias)

        with concurrent.futures.ThreadPoolExecutor(8) as clients:
            list(clients.map(create, range(FUNCTIONS)))
        time.sleep(SETTLE_S)
        before = machine.cpu_ns(server.pid)
        time.sleep(SECONDS)
        return {"cpu_percent": machine.cpu_ms(server.pid, before) / SECONDS / 10}
    finally:
        server.stop()


def promises(found):
    return {f"{FUNCTIONS} functions and {ALIASES} aliases, idle, % of a core": at_most(found["cpu_percent"], 1)}


def lines(found):
    return [
        "## Nothing called", "",
        f"{FUNCTIONS:,} functions, {ALIASES} aliases: {found['cpu_percent']:.2f} % of a processor over {SECONDS} s.",
    ]
