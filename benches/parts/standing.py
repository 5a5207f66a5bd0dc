"""What a platform costs on which nothing is called: a thousand functions, five hundred aliases, and two hundred mappings
of the streams of fifty tables."""
import concurrent.futures
import time

import machine
from bench import at_most
from packages import python_package, python_runtime

FUNCTIONS, ALIASES, MAPPINGS = 1_000, 500, 200
#: Whose streams the mappings read, and for how long they may take to be ready.
TABLES, READY_S = 50, 60
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
            streams = list(clients.map(lambda number: make_table(server, number), range(TABLES)))
            made = list(clients.map(lambda number: make_mapping(server, number, streams[number % TABLES]), range(MAPPINGS)))
        wait_for(server, set(made))
        time.sleep(SETTLE_S)
        before = machine.cpu_ns(server.pid)
        time.sleep(SECONDS)
        return {"cpu_percent": machine.cpu_ms(server.pid, before) / SECONDS / 10}
    finally:
        server.stop()


def make_table(server, number):
    """A table with a stream; the stream."""
    return server.target("dynamodb", "DynamoDB_20120810.CreateTable", {
        "TableName": f"t-{number}", "BillingMode": "PAY_PER_REQUEST",
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "StreamSpecification": {"StreamEnabled": True, "StreamViewType": "NEW_IMAGE"},
    })["TableDescription"]["LatestStreamArn"]


def make_mapping(server, number, stream):
    """A mapping of a stream to a function of its own; its name."""
    body = {"EventSourceArn": stream, "FunctionName": f"f-{number}", "StartingPosition": "LATEST"}
    return server.call("lambda", "POST", "/2015-03-31/event-source-mappings/", body)["UUID"]


def wait_for(server, mappings):
    """Waits until each mapping reads."""
    end = time.monotonic() + READY_S
    while mappings:
        if time.monotonic() > end:
            raise RuntimeError(f"{len(mappings)} mappings did not become Enabled")
        mappings = {
            mapping for mapping in mappings
            if server.call("lambda", "GET", f"/2015-03-31/event-source-mappings/{mapping}")["State"] != "Enabled"
        }
        time.sleep(0.1)


def promises(found):
    return {f"{FUNCTIONS} functions, {ALIASES} aliases, {MAPPINGS} mappings, idle, % of a core": at_most(found["cpu_percent"], 1)}


def lines(found):
    return [
        "## Nothing called", "",
        f"{FUNCTIONS:,} functions, {ALIASES} aliases, {MAPPINGS} mappings of streams: {found['cpu_percent']:.2f} % of a processor over {SECONDS} s.",
    ]
