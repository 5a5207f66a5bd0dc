"""`dunlin dev` and `dunlin up` as programs: where they listen, how they stop, what they keep, and what they refuse."""

import concurrent.futures
import json
import signal
import subprocess
import time

import pytest
import requests

from conftest import binary, clean_environment, refused, wait_for
from test_dynamodb import make
from test_invoke import invoke

SLOW = "import time\ndef handler(event, context):\n    time.sleep(event['s'])\n    return 'finished'\n"


@pytest.mark.parametrize("mode", ["dev", "up"])
def test_a_stop_finishes_running_calls(own_server, mode):
    server = own_server(mode)
    name = server.function(SLOW)
    url = server.function_url(server.function("import time\ndef handler(event, context):\n    time.sleep(2)\n    return 'url'\n"))
    invoke(server, name, {"s": 0})
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        call = pool.submit(invoke, server, name, {"s": 2})
        web = pool.submit(requests.get, url, timeout=30)
        busy = {"function": name}

        def both_run():
            answer = subprocess.run(
                [binary(), "ps", "--json"], env=server.environment(), capture_output=True, text=True, timeout=30, check=True
            )
            states = [row["state"] for row in json.loads(answer.stdout)["environments"]]
            busy["states"] = states
            return states.count("running") + states.count("busy") == 2

        wait_for(both_run, f"two running calls ({busy})")
        begun = time.monotonic()
        assert server.stop() == 0
        assert call.result()["json"] == "finished"
        assert (web.result().status_code, web.result().text) == (200, "url")
        assert time.monotonic() - begun < 15
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{server.url}/_dunlin/health", timeout=5)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_was_acknowledged_is_there_after_a_restart(own_server, how):
    server = own_server("up")
    name = server.function("def handler(event, context):\n    print('before')\n    return 'kept'\n")
    url = server.function_url(name)
    table = make(server)
    server.client("dynamodb").put_item(TableName=table, Item={"pk": {"S": "a"}, "n": {"N": "1"}})
    assert invoke(server, name)["json"] == "kept"
    key = server.access_key
    if how == "stop":
        assert server.stop() == 0
    else:
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    old, _ = server.url, server.start()
    assert server.access_key == key
    assert server.client("dynamodb").get_item(TableName=table, Key={"pk": {"S": "a"}})["Item"]["n"] == {"N": "1"}
    assert invoke(server, name)["json"] == "kept"
    assert requests.get(url.replace(old, server.url), timeout=30).text == "kept"
    bill = wait_for(
        lambda: [row for row in json.loads(
            subprocess.run([binary(), "bill", "--json"], env=server.environment(), capture_output=True, text=True, check=True).stdout
        )["functions"] if row["function"].endswith(name) and row["requests"] == 3],
        "three calls in the ledger",
    )
    assert bill[0]["errors"] == 0


def start(*arguments):
    """Starts the program, which is to refuse by itself."""
    return subprocess.run(
        [binary(), *map(str, arguments)], env=clean_environment(), capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )


def test_addresses_that_are_refused(tmp_path):
    done = start("dev", "--listen", "0.0.0.0:0", "--data-dir", tmp_path / "data")
    assert done.returncode == 1
    assert "takes any credentials and therefore listens on loopback only" in done.stderr
    done = start("up", "--listen", "0.0.0.0:0", "--data-dir", tmp_path / "data")
    assert done.returncode == 1
    assert "give --tls-cert and --tls-key, or --behind-proxy" in done.stderr
    assert not (tmp_path / "data").exists()


def test_a_port_that_is_taken(dev, own_server):
    folder = own_server("dev").folder / "second"
    done = start("dev", "--listen", f"127.0.0.1:{dev.port}", "--data-dir", folder)
    assert done.returncode == 1
    assert str(dev.port) in done.stderr and "in use" in done.stderr.lower()


def test_a_data_folder_that_is_in_use(dev):
    done = start("dev", "--listen", "127.0.0.1:0", "--data-dir", dev.data_dir)
    assert done.returncode == 1
    assert str(dev.data_dir) in done.stderr and "choose another folder with --data-dir" in done.stderr
    assert invoke(dev, dev.function("def handler(e, c): return 1\n"))["json"] == 1


def test_hosts_that_are_refused(server):
    def ask(host, path="/_dunlin/ps"):
        return requests.get(server.url + path, headers={"Host": host, "Authorization": "x"}, timeout=30).status_code

    allowed = 200 if server.mode == "dev" else 403
    refused_status = ask("evil.example")
    assert refused_status not in (200, 403)
    for host in ["evil.example:4566", "localhost.evil.example", "127.0.0.1.evil.example"]:
        assert ask(host) == refused_status, host
    for host in ["localhost", f"127.0.0.1:{server.port}", "anything.localhost"]:
        assert ask(host) == allowed, host
    # Health is for anyone, load balancers among them.
    assert ask("evil.example", "/_dunlin/health") == 200


def test_an_unknown_path_says_what_there_is(dev):
    answer = requests.get(f"{dev.url}/nothing", timeout=30)
    assert answer.status_code in (403, 404)
    assert answer.text


def test_metered_calls_are_not_lost_when_many_fail(dev):
    client = dev.client("lambda")
    name = dev.function("def handler(e, c): return 1\n")
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=0)
    for _ in range(5):
        assert refused(client.invoke, FunctionName=name)[0] == 429
    client.delete_function_concurrency(FunctionName=name)
    invoke(dev, name)

    def rows():
        done = subprocess.run([binary(), "bill", "--json"], env=dev.environment(), capture_output=True, text=True, check=True)
        return [row for row in json.loads(done.stdout)["functions"] if row["function"].endswith(name)]

    # Calls that never ran are not billed.
    assert wait_for(rows, "the call in the ledger")[0]["requests"] == 1
