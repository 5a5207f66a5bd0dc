"""`dunlin invoke`, `logs`, `ps`, `bill` and `doctor`: their words, their JSON, their exit codes."""

import json
import subprocess
import threading

import pytest

from conftest import NODE, binary, clean_environment, name_of, wait_for
from test_deploy import dunlin

SOURCE = (
    "import time\n"
    "def handler(event, context):\n"
    "    print('called with', event.get('mark'))\n"
    "    if event.get('fail'): raise ValueError(event['fail'])\n"
    "    time.sleep(event.get('s', 0))\n"
    "    return {'got': event}\n"
)


@pytest.fixture
def name(server):
    """A function on the server of this run."""
    return server.function(SOURCE)


def test_invoke(server, name):
    done = dunlin(server, "invoke", name, "--data", '{"mark": "ü"}')
    assert (done.code, json.loads(done.out), done.err) == (0, {"got": {"mark": "ü"}}, "")
    done = dunlin(server, "invoke", name, "--data", "-", "--log", stdin='{"mark": "stdin"}')
    assert json.loads(done.out) == {"got": {"mark": "stdin"}}
    assert "called with stdin" in done.err and "REPORT RequestId: " in done.err
    done = dunlin(server, "invoke", name, "--json")
    assert done.json["status"] == 200 and done.json["payload"] == {"got": {}} and done.json["functionError"] is None
    assert done.json["version"] == "$LATEST" and done.json["requestId"]
    done = dunlin(server, "invoke", name, "--event")
    assert (done.code, done.out) == (0, "") and done.err.startswith("accepted as ")


def test_invoke_from_a_file(server, name, tmp_path):
    (tmp_path / "event.json").write_text('{"mark": "file"}')
    assert json.loads(dunlin(server, "invoke", name, "--data", f"@{tmp_path}/event.json").out) == {"got": {"mark": "file"}}
    done = dunlin(server, "invoke", name, "--data", "@nothing.json")
    assert done.code == 1 and "nothing.json" in done.err


def test_invoke_that_fails(server, name):
    done = dunlin(server, "invoke", name, "--data", '{"fail": "as asked"}')
    assert done.code == 1
    assert json.loads(done.out)["errorMessage"] == "as asked"
    assert "the function failed (Unhandled)" in done.err
    done = dunlin(server, "invoke", name_of())
    assert (done.code, done.out) == (1, "")
    assert "ResourceNotFoundException: Function not found: arn:aws:lambda:" in done.err
    done = dunlin(server, "invoke", name, "--data", "{no json")
    assert done.code == 1 and "InvalidRequestContentException" in done.err


def test_logs(server, name):
    dunlin(server, "invoke", name, "--data", '{"mark": "m1"}')

    def shown():
        done = dunlin(server, "logs", name)
        return "REPORT" in done.out and done.out

    lines = wait_for(shown, "the log").splitlines()
    assert [line.split("  ", 1)[1].split(" ")[0] for line in lines] == ["INIT_START", "START", "called", "END", "REPORT"]
    done = dunlin(server, "logs", name, "--json", "--filter", "called")
    assert json.loads(done.out)["message"] == "called with m1\n"
    assert dunlin(server, "logs", name, "--since", "0s").out == ""
    done = dunlin(server, "logs", name_of())
    assert done.code == 1 and "there is no log group" in done.err


def test_logs_follow(server, name):
    command = [binary(), "logs", name, "-f"]
    following = subprocess.Popen(command, env=server.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = []
    threading.Thread(target=lambda: lines.extend(iter(following.stdout.readline, "")), daemon=True).start()
    try:
        assert following.stderr.readline().startswith(f"waiting for the first line of /aws/lambda/{name}")
        for mark in ["m1", "m2"]:
            dunlin(server, "invoke", name, "--data", json.dumps({"mark": mark}))
            wait_for(lambda: any(f"called with {mark}" in line for line in lines), f"the line of {mark}")
        wait_for(lambda: sum("REPORT" in line for line in lines) == 2, "both REPORT lines")
        # Each line is shown once, also when it is looked at again.
        wait_for(lambda: sum("REPORT" in line for line in lines) == 2, "both REPORT lines")
        assert sum("called with m1" in line for line in lines) == 1
    finally:
        following.kill()
        following.wait()


def test_ps(server, name):
    dunlin(server, "invoke", name)
    done = dunlin(server, "ps", "--json")
    rows = [row for row in done.json["environments"] if row["function"].endswith(name)]
    assert len(rows) == 1 and rows[0]["state"] and rows[0]["memoryBytes"] > 0
    head, *table = dunlin(server, "ps").out.splitlines()
    assert head.split() == ["FUNCTION", "VERSION", "STATE", "CALLS", "MEMORY", "AGE"]
    assert any(name in row for row in table)


def test_events(server, name):
    lambda_ = server.client("lambda")
    lambda_.put_function_event_invoke_config(FunctionName=name, MaximumRetryAttempts=0)
    for payload in ("{}", '{"fail": "x"}'):
        assert lambda_.invoke(FunctionName=name, InvocationType="Event", Payload=payload)["StatusCode"] == 202

    def ended():
        [row] = [row for row in dunlin(server, "events", "--json").json["functions"] if row["function"] == name]
        return row["waiting"] == row["running"] == 0 and row["asyncEventAge"]["tries"] == 2 and row

    row = wait_for(ended, "both events have ended")
    assert row["asyncEventsReceived"] == 2 and row["asyncEventsDropped"] == {"RetriesExhausted": 1}
    assert row["destinationDeliveryFailures"] == 0 and row["oldestMs"] is None
    assert row["asyncEventAge"]["meanMs"] <= row["asyncEventAge"]["maxMs"]
    head, *table = dunlin(server, "events").out.splitlines()
    assert head.split()[:4] == ["FUNCTION", "RECEIVED", "WAITING", "RUNNING"]
    assert any(line.split()[:4] == [name, "2", "0", "0"] for line in table)


def test_bill(server, name):
    for _ in range(3):
        dunlin(server, "invoke", name)
    dunlin(server, "invoke", name, "--data", '{"fail": "x"}')

    def billed():
        rows = [row for row in dunlin(server, "bill", "--json").json["functions"] if row["function"].endswith(name)]
        return rows and rows[0]["requests"] == 4 and rows[0]

    row = wait_for(billed, "four calls in the ledger")
    assert row["errors"] == 1
    assert row["billedMs"] >= 4
    assert row["gbSeconds"] == pytest.approx(row["billedMs"] / 1_000 * 256 / 1_024)
    assert row["costUsd"] == pytest.approx(4 * 0.2e-6 + row["gbSeconds"] * 0.0000166667)
    assert row["cpuUs"] > 0
    words = dunlin(server, "bill")
    assert "Here it costs nothing" in words.err and name in words.out


def test_signed_commands(up):
    name = up.function(SOURCE)
    done = dunlin(up, "invoke", name, AWS_SECRET_ACCESS_KEY="wrong")
    assert done.code == 1 and "InvalidSignatureException" in done.err
    done = dunlin(up, "ps", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    assert done.code == 1
    done = dunlin(up, "ps", "--key-file", up.key_file, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y")
    assert done.code == 0, done.err
    done = dunlin(up, "ps", AWS_ACCESS_KEY_ID="", DUNLIN_KEY_FILE=str(up.key_file))
    assert done.code == 0, done.err


def alone(*arguments):
    """Runs the program where no server is meant."""
    return subprocess.run(
        [binary(), *arguments], env=clean_environment(), capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
        check=False,
    )


def test_doctor():
    done = alone("doctor", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {wall["state"] for wall in told["walls"]} <= {"hard", "soft", "missing"}
    assert all(wall["name"] and wall["detail"] for wall in told["walls"])
    assert told["freezes"] in (True, False)
    families = {found["family"] for found in told["interpreters"]["usable"]}
    assert "Python" in families
    assert all(skipped["path"] and skipped["why"] for skipped in told["interpreters"]["skipped"])
    words = alone("doctor")
    assert words.returncode == 0
    assert "WALL" in words.stdout and "INTERPRETER" in words.stdout
    frozen = "Idle environments that could run are frozen" if told["freezes"] else "Idle environments are not frozen here"
    assert frozen in words.stdout


@pytest.mark.parametrize(
    "arguments",
    [(), ("nothing",), ("invoke",), ("deploy", "--nothing"), ("logs", "x", "--since", "soon"), ("dev", "--listen", "nowhere"),
     ("up", "--tls-cert", "x"), ("bill", "--days", "0")],
)
def test_wrong_arguments(arguments):
    done = alone(*arguments)
    assert done.returncode == 2
    assert done.stdout == "" and "Usage" in done.stderr or "error:" in done.stderr


def test_version_and_help():
    assert alone("--version").stdout.startswith("dunlin ")
    for command in [(), ("dev",), ("up",), ("deploy",), ("invoke",), ("logs",), ("ps",), ("events",), ("bill",), ("doctor",)]:
        done = alone(*command, "--help")
        assert done.returncode == 0 and "Usage: dunlin" in done.stdout
    assert "__spawner" not in alone("--help").stdout


def test_node_through_the_command(dev):
    name = dev.function("exports.handler = async (event) => event.n + 1;", runtime=NODE)
    assert dunlin(dev, "invoke", name, "--data", '{"n": 1}').out == "2\n"
