"""A stop finishes what runs; a server that lost the process that makes its sandboxes says so and ends.

A supervisor starts an ended server again; one that stayed up and failed every call would be worse than none.
"""

import os
import signal
import threading

import pytest

from chaos.servers import PRIVILEGES, is_alive, runtimes, server_of, wait_until

SLOW = "import time\ndef handler(event, context):\n    print('began')\n    time.sleep(event['seconds'])\n    return 'done'\n"


@pytest.mark.parametrize("privilege", PRIVILEGES)
def test_a_stop_finishes_running_calls(privilege):
    with server_of(privilege) as server:
        server.start()
        server.create("slow", SLOW, runtimes(server)["python"], Timeout=30)
        answers = []
        call = lambda: answers.append(server.invoke("slow", {"seconds": 1.5})[0])
        callers = [threading.Thread(target=call) for _ in range(4)]
        for caller in callers:
            caller.start()
        busy = lambda: [one for one in server.admin("ps")["environments"] if one["state"] == "busy"]
        wait_until("all calls run", lambda: len(busy()) == len(callers), 30)
        family = server.family()
        assert server.stop() == 0
        for caller in callers:
            caller.join(10)
        assert answers == ["done"] * len(callers)
        server.assert_nothing_left(family)
        # What they did is in the books and in the log.
        server.start()
        assert server.admin("usage?function=slow&limit=10")["count"] == len(callers)
        events = server.client("logs").filter_log_events(logGroupName="/aws/lambda/slow", filterPattern="began")["events"]
        assert len(events) == len(callers)


def test_a_second_signal_stops_at_once():
    with server_of(PRIVILEGES[0]) as server:
        server.start()
        server.create("slow", SLOW, runtimes(server)["python"], Timeout=60)
        server.invoke("slow", {"seconds": 0})
        server.invoke("slow", {"seconds": 0})
        threading.Thread(target=lambda: pytest.raises(Exception, server.invoke, "slow", {"seconds": 50})).start()
        wait_until("the call runs", lambda: any(one["state"] == "busy" for one in server.admin("ps")["environments"]))
        family = server.family()
        server.process.send_signal(signal.SIGTERM)
        wait_until("it says that it stops", lambda: "Stopping" in server.log())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 1
        server.process = None
        server.assert_nothing_left(family)


def test_a_server_without_its_spawner_ends():
    with server_of(PRIVILEGES[0]) as server:
        server.start()
        server.create("slow", SLOW, runtimes(server)["python"], Timeout=60)
        server.invoke("slow", {"seconds": 0})
        family = server.family()
        os.kill(server.spawners[0][0], signal.SIGKILL)
        assert server.process.wait(20) == 1, "it ends with an error"
        server.process = None
        assert "start the server again" in server.log()
        wait_until("its sandboxes have ended", lambda: not any(map(is_alive, family)))
        server.start()
        assert server.invoke("slow", {"seconds": 0})[0] == "done"
        assert server.stop() == 0
