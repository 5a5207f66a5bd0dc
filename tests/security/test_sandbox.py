"""Escape attempts of deployed functions, through the whole platform, each beside a control that succeeds outside.

`attacks/` holds the hostile code. A case runs it as a function and as a plain process of the same user on the host.
What an ordinary user's machine cannot enforce by the kernel is asserted as what `doctor` says of it. After each attempt
a function of somebody else must still answer. Start reading at `CASES`.
"""

import contextlib
import http.server
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import threading

import botocore.exceptions
import pytest

from chaos.servers import (
    IS_ROOT, PRIVILEGES, Server, is_alive, mounts, package, runtimes, server_of, wait_until,
)

ATTACKS = pathlib.Path(__file__).parent / "attacks"
FILES = {"python": "main.py", "nodejs": "index.js"}
VICTIM = "SECRET = 'of-another-function'\ndef handler(event, context):\n    return 'well'\n"
MEMORY_MB = 256


class Listener:
    """Something that listens on the host and greets everybody."""

    def __init__(self, family=socket.AF_INET, address=("127.0.0.1", 0)):
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.bind(address)
        self.socket.listen(64)
        self.accepted = 0
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def port(self):
        return self.socket.getsockname()[1]

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.accepted += 1
                with connection:
                    connection.sendall(b"host")


class World:
    """A running platform with a victim and two attackers, and what they are after on the host."""

    def __init__(self, privilege):
        self.privilege = privilege
        # Attempts look at environments after their call.
        self.server = server_of(privilege, args=["--keep-alive", "600"])
        self.mounted = mounts()
        self.server.start()
        self.interpreters = {}
        for found in self.server.admin("runtimes")["interpreters"]:
            self.interpreters[found["family"]] = found["binary"]
        self.walls = {wall["name"]: wall["state"] for wall in self.server.admin("walls")["walls"]}
        names = runtimes(self.server)
        self.server.create("victim", VICTIM, names["python"], Timeout=30)
        self.families = [family for family in FILES if family in names]
        for family in self.families:
            for name, memory, more in (
                (family, MEMORY_MB, {}), (f"{family}-large", 2048, {}), (f"{family}-brief", MEMORY_MB, {"Timeout": 1}),
            ):
                code = (ATTACKS / FILES[family]).read_text()
                self.server.create(name, code, names[family], MemorySize=memory, **{"Timeout": 60, **more})
        self.assert_well()
        # In a folder that everybody may look into, so that only the sandbox is in the way.
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dunlin-test-host-"))
        self.folder.chmod(0o755)
        (self.folder / "secret").write_text("of the host")
        (self.folder / "secret").chmod(0o644)
        (self.folder / "open").mkdir()
        (self.folder / "open").chmod(0o777)
        copied = {family: shutil.copy(ATTACKS / FILES[family], self.folder) for family in self.families}
        self.files = {family: pathlib.Path(path) for family, path in copied.items()}
        self.listener = Listener()
        self.abstract = f"dunlin-test-{os.getpid()}-{privilege}"
        self.abstract_listener = Listener(socket.AF_UNIX, f"\0{self.abstract}")
        self.sleeper = self.server.popen(["sleep", "1000"])

    def assert_well(self):
        """Somebody else's function answers, and the server is ready."""
        assert self.server.is_ready()
        answer, response = self.server.invoke("victim")
        assert answer == "well" and "FunctionError" not in response, answer

    def victims_code(self):
        """Where the victim's package lies unpacked on the host."""
        found = [path for path in self.server.data.glob("code/*/main.py") if path.read_text() == VICTIM]
        assert len(found) == 1
        return found[0]

    def fill(self, value):
        """Fills in what `{…}` stands for."""
        if not isinstance(value, str) or not value.startswith("{"):
            return value
        return {
            "{secret}": lambda: str(self.folder / "secret"),
            "{open}": lambda: str(self.folder / "open"),
            "{data}": lambda: str(self.server.data),
            "{session secret}": lambda: str(self.server.data / "keys/session-secret"),
            "{store}": lambda: str(self.server.data / "store"),
            "{victim}": lambda: str(self.victims_code()),
            "{pid}": lambda: self.sleeper.pid,
            "{process}": lambda: f"/proc/{self.sleeper.pid}/cmdline",
            "{port}": lambda: self.listener.port,
            "{server port}": lambda: self.server.port,
            "{abstract}": lambda: self.abstract,
        }[value]()

    def attempt(self, family, name, event, kind=""):
        """An attempt as a function: (did, detail), the response and the log's end."""
        function = f"{family}-{kind}" if kind else family
        answer, response = self.server.invoke(function, {"attempt": name, **event})
        if "FunctionError" in response:
            return False, f"{answer.get('errorType')}: {answer.get('errorMessage')}"
        return tuple(answer)

    def outside(self, family, name, event):
        """The same attempt by a plain process of the server's user."""
        command = [self.interpreters[family], str(self.files[family]), name, json.dumps(event)]
        process = self.server.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said, wrong = process.communicate(timeout=60)
        assert said, wrong
        return tuple(json.loads(said.splitlines()[-1]))

    def close(self):
        self.sleeper.kill()
        self.sleeper.wait()
        family = self.server.family()
        try:
            assert self.server.stop() == 0
            self.server.assert_nothing_left(family)
            assert mounts() == self.mounted
        finally:
            self.listener.socket.close()
            self.abstract_listener.socket.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            self.server.close()


@pytest.fixture(scope="module", params=PRIVILEGES)
def world(request):
    made = World(request.param)
    yield made
    made.close()


#: Where the same succeeds: outside for everybody, outside for root, or not tried (it is said why).
OUTSIDE, AS_ROOT = "outside", "as root"

#: name, attempt, what it is given, what it is given outside where that differs, control
CASES = [
    ("reads a file of the host", "read", {"path": "{secret}"}, {}, OUTSIDE),
    ("reads the host's passwords", "read", {"path": "/etc/shadow"}, {}, AS_ROOT),
    ("lists the host's state", "list", {"path": "/var/lib"}, {}, OUTSIDE),
    ("lists the host's homes", "list", {"path": "/home"}, {}, OUTSIDE),
    ("lists the data folder", "list", {"path": "{data}"}, {}, OUTSIDE),
    ("reads the server's secret", "read", {"path": "{session secret}"}, {}, OUTSIDE),
    ("lists the store", "list", {"path": "{store}"}, {}, OUTSIDE),
    ("reads another function's code", "read", {"path": "{victim}"}, {}, OUTSIDE),
    ("lists what lies beside its code", "list", {"path": "/var/task/../../data"}, {"path": "{data}"}, OUTSIDE),
    ("reads a process of the host", "read", {"path": "{process}"}, {}, OUTSIDE),
    ("reads a process's variables", "foreign_variables", {"pid": "{pid}"}, {}, OUTSIDE),
    ("reads its first process's variables", "foreign_variables", {"pid": 1}, {"pid": "{pid}"}, OUTSIDE),
    ("signals a process of the host", "signal", {"pid": "{pid}"}, {}, OUTSIDE),
    ("lists the kernel's objects", "list", {"path": "/sys/kernel"}, {}, OUTSIDE),
    ("lists control groups", "list", {"path": "/sys/fs/cgroup"}, {}, OUTSIDE),
    ("writes a kernel setting", "write", {"path": "/proc/sys/kernel/core_pattern"}, {}, AS_ROOT),
    ("writes its code", "write", {"path": "/var/task/new"}, {"path": "{open}/new"}, OUTSIDE),
    ("writes the runtime", "write", {"path": "/var/runtime/new"}, {"path": "{open}/new"}, OUTSIDE),
    ("writes a program", "write", {"path": "/usr/bin/env"}, {}, AS_ROOT),
    ("writes to the trusted certificates", "write", {"path": "/etc/ssl/certs/ca-certificates.crt"}, {}, AS_ROOT),
    ("becomes root", "become_root", {}, {}, AS_ROOT),
    ("mounts", "remount", {}, {}, OUTSIDE),
    ("makes a user namespace", "user_namespace", {}, {}, OUTSIDE),
    ("traces another process", "ptrace", {}, {}, OUTSIDE),
    ("opens raw sockets", "raw_socket", {}, {}, OUTSIDE),
    ("makes a device", "device", {"folder": "/tmp"}, {"folder": "{open}"}, AS_ROOT),
    ("connects to the host's loopback", "connect", {"host": "127.0.0.1", "port": "{port}"}, {}, OUTSIDE),
    ("connects to the host's loopback by name", "connect", {"host": "localhost", "port": "{port}"}, {}, OUTSIDE),
    ("connects to the platform's port", "http",
     {"host": "127.0.0.1", "port": "{server port}", "path": "/_dunlin/health"}, {}, OUTSIDE),
    ("connects to an abstract socket of the host", "abstract_socket", {"name": "{abstract}"}, {}, OUTSIDE),
]


def attempts_of(family):
    """What the family's hostile code can try."""
    named = {"python": r"^def attempt_(\w+)", "nodejs": r"^  (\w+): "}[family]
    return set(re.findall(named, (ATTACKS / FILES[family]).read_text(), re.M))


def filled(world, event):
    event = {
        name: value.replace("{open}", str(world.folder / "open")) if isinstance(value, str) and "/new" in value
        else world.fill(value) for name, value in event.items()
    }
    return event


@pytest.mark.parametrize("family", list(FILES))
@pytest.mark.parametrize(("name", "attempt", "event", "otherwise", "control"), CASES, ids=[case[0] for case in CASES])
def test_escape(world, family, name, attempt, event, otherwise, control):
    if family not in world.families or attempt not in attempts_of(family):
        pytest.skip(f"{family} has no such attempt, or no interpreter here")
    inside = filled(world, event)
    did, detail = world.attempt(family, attempt, inside)
    assert not did, f"{name}: {detail}"
    if control == AS_ROOT and world.privilege != "root":
        return  # Outside, too, only root may.
    did, detail = world.outside(family, attempt, inside | filled(world, otherwise))
    assert did, f"the control did not succeed: {detail}"


def test_of_roots_home_only_an_interpreter_is_seen(world):
    """Version managers keep interpreters there; the way to one is made anew, with nothing else in it."""
    ways = {pathlib.Path(binary).parts[2] for binary in world.interpreters.values() if binary.startswith("/root/")}
    for family in world.families:
        did, detail = world.attempt(family, "names", {"path": "/root"})
        assert not did or set(json.loads(detail)) <= ways, detail


def test_the_attempts_run(world):
    """What succeeds inside shows that a refusal is not a broken attempt."""
    for family in world.families:
        assert world.attempt(family, "nothing", {}) == (True, "nothing")
        for name, event in (
            ("read", {"path": "/var/task/" + FILES[family]}), ("list", {"path": "/tmp"}), ("write", {"path": "/tmp/new"}),
            ("read", {"path": "/proc/self/cmdline"}), ("fill", {"folder": "/tmp", "megabytes": 8}),
        ):
            assert world.attempt(family, name, event)[0], (family, name)


# Limits.


@pytest.mark.parametrize("family", list(FILES))
def test_a_fork_bomb_ends_at_the_limit(world, family):
    event = {"processes": 1500}
    did, detail = world.attempt(family, "fork_bomb", event, "large")
    assert not did, detail
    world.assert_well()
    assert world.walls["process limit"] == ("hard" if world.privilege == "root" else world.walls["process limit"])
    assert world.walls["process limit"] in ("hard", "soft")
    did, detail = world.outside(family, "fork_bomb", event)
    assert did, f"the control did not succeed: {detail}"


@pytest.mark.parametrize(("family", "attempt"), [
    ("python", "memory_bomb"), ("nodejs", "memory_bomb"), ("python", "memory_bomb_in_children"),
])
def test_a_memory_bomb_ends_the_call_only(world, family, attempt):
    event = {"megabytes": 3 * MEMORY_MB}
    did, detail = world.attempt(family, attempt, event)
    assert not did, detail
    if attempt == "memory_bomb":
        usage = world.server.admin(f"usage?function={family}&limit=1")["records"][0]
        assert usage["ending"] == "OutOfMemory", (usage, detail)
        # The peak that is reported is about the limit, not what was wanted.
        soft = world.walls["memory limit"] == "soft"
        assert usage["memoryPeakBytes"] <= (MEMORY_MB << 20) * (3 if soft else 1.1)
        log = world.server.client("logs").filter_log_events(logGroupName=f"/aws/lambda/{family}", filterPattern="REPORT")
        assert any("Max Memory Used" in event["message"] for event in log["events"])
    world.assert_well()
    assert world.attempt(family, "nothing", {}) == (True, "nothing"), "the next call gets a new environment"
    assert world.outside(family, attempt, event)[0], "the control"


@pytest.mark.parametrize("family", list(FILES))
def test_tmp_has_a_size(world, family):
    event = {"folder": "/tmp", "megabytes": 600}
    did, detail = world.attempt(family, "fill", event, "large")
    assert not did and "ENOSPC" in detail, detail
    written = int(re.search(r"after (\d+) MiB", detail)[1])
    assert 480 <= written <= 512, "Lambda gives 512 MB"
    assert world.attempt(family, "fill", event | {"megabytes": 400}, "large")[0], "and what was removed is free again"
    assert world.outside(family, "fill", event | {"folder": str(world.folder / "open")})[0], "the control"


@pytest.mark.parametrize("family", list(FILES))
def test_an_endless_loop_ends_with_its_time(world, family):
    did, detail = world.attempt(family, "spin", {}, "brief")
    assert not did and "timed out after 1.00 seconds" in detail, detail
    world.assert_well()


@pytest.mark.parametrize("family", list(FILES))
def test_a_daemon_goes_with_its_environment(world, family):
    def is_there(process):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/{process[0]}/ns/pid") == sandbox

    did, sandbox = world.attempt(family, "daemon", {}, "brief")
    assert did, sandbox

    def crowd():
        """The first process, the guest, and what it has left behind, which is one process or another at every moment."""
        found = {process for process in world.server.family() if is_there(process)}
        return found if len(found) > 2 else None

    theirs = wait_until("the daemon runs", crowd)
    # A call that runs out of time ends the environment, and everything in it.
    assert not world.attempt(family, "spin", {}, "brief")[0]
    wait_until("all have ended", lambda: not any(is_alive(process) for process in theirs))


@pytest.mark.parametrize("family", list(FILES))
def test_a_flood_of_lines_drowns_nobody(world, family):
    resident = lambda: int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(
        f"/proc/{world.server.process.pid}/status").read_text())[1]) >> 10
    before, peak = resident(), [0]
    flood = threading.Thread(target=world.attempt, args=(family, "flood", {"megabytes": 20}, "large"))
    flood.start()
    while flood.is_alive():
        world.assert_well()
        peak[0] = max(peak[0], resident())
    flood.join()
    print(f"\n{world.privilege}, {family}: the server grew from {before} to {peak[0]} MB while 20 MB were printed")
    assert peak[0] < before + 150, "what the server holds back has a bound"


def test_leaked_descriptors_harm_their_own_function_only(world):
    if "python" not in world.families:
        pytest.skip("needs Python")
    count = lambda: len(os.listdir(f"/proc/{world.server.process.pid}/fd"))
    before = count()
    event = {"descriptors": 3000, "host": "169.254.100.1", "port": 80, "seconds": 1}
    outcome = []
    leak = threading.Thread(target=lambda: outcome.append(world.attempt("python", "leak", event, "large")))
    leak.start()
    while leak.is_alive():
        world.assert_well()
    leak.join()
    did, detail = outcome[0]
    assert not did and re.search("EMFILE .*after (9|10)..", detail), "a function has 1,024 descriptors, as on Lambda"
    assert world.attempt("python", "nothing", {}, "large") == (True, "nothing")
    # About 500 of the leak were connections; environments that start meanwhile have some each.
    wait_until(lambda: f"the server has closed its ends: {before} before, {count()} now", lambda: count() < before + 200)
    # The control: outside, as many files as the system gives.
    outside = {**event, "descriptors": 300, "host": "127.0.0.1", "port": world.listener.port, "seconds": 0}
    assert world.outside("python", "leak", outside)[0]


# The network.


def test_the_metadata_address_is_not_reached(world):
    for family in world.families:
        for path in ("/latest/meta-data/", "/computeMetadata/v1/"):
            did, detail = world.attempt(family, "http", {"host": "169.254.169.254", "path": path})
            assert not did, detail


def own_addresses():
    """Addresses of this host other than loopback."""
    try:
        listed = json.loads(subprocess.run(["ip", "-j", "addr"], capture_output=True, check=True).stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return []
    return [
        info["local"] for device in listed for info in device["addr_info"]
        if info["scope"] == "global" and info["family"] == "inet"
    ]


def test_the_hosts_own_addresses_are_not_reached(world):
    """Only public addresses are open to functions; the machine's own are not public to it."""
    for address in own_addresses():
        listener = Listener(address=(address, 0))
        event = {"host": address, "port": listener.port}
        for family in world.families:
            did, detail = world.attempt(family, "connect", event)
            assert not did, (address, detail)
            assert world.outside(family, "connect", event)[0], "the control"
        listener.socket.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.1.2.3", "::1", "::ffff:127.0.0.1", "10.0.0.1", "192.168.0.1"])
def test_other_spellings_of_the_host_are_not_reached(world, host):
    accepted = world.listener.accepted
    for family in world.families:
        did, detail = world.attempt(family, "connect", {"host": host, "port": world.listener.port})
        assert not did, detail
    assert world.listener.accepted == accepted


class Redirecting(http.server.BaseHTTPRequestHandler):
    """Sends everybody on to `target`, or says that it is the inner one."""

    target = None

    def do_GET(self):
        self.send_response(302 if self.target else 200)
        if self.target:
            self.send_header("Location", self.target)
        self.end_headers()
        self.wfile.write(b"inner")

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(target=None):
    handler = type("Handler", (Redirecting,), {"target": target})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_egress_is_as_the_functions_tag_says(world):
    """`dev` lets the developer open a port of the host; every step of a redirect is judged anew."""
    if "python" not in world.families:
        pytest.skip("needs Python")
    client = world.server.client("lambda")
    arn = client.get_function(FunctionName="python")["Configuration"]["FunctionArn"]

    def attempt(target_of):
        return world.attempt("python", "follow", {"url": f"http://{target_of}/"})

    def tagged(policy):
        client.tag_resource(Resource=arn, Tags={"dunlin:egress": policy})

    with serving() as inner, serving(f"http://127.0.0.1:{inner}/") as outer, serving(f"http://169.254.169.254/") as metadata:
        opened = [f"host.dunlin.internal:{port}" for port in (outer, metadata)]
        for target in (*opened, f"host.dunlin.internal:{inner}", f"127.0.0.1:{inner}"):
            assert not attempt(target)[0], "closed unless somebody opens it"
        with pytest.raises(botocore.exceptions.ClientError, match="HOST:PORT"):
            tagged("everything")
        try:
            tagged("public " + " ".join(opened))
            for target in opened:
                did, detail = attempt(target)
                assert not did, detail
            tagged(f"host.dunlin.internal:{outer} host.dunlin.internal:{inner}")
            assert attempt(f"host.dunlin.internal:{inner}")[0], "the control: what is opened is reached"
            assert not attempt(f"host.dunlin.internal:{outer}")[0], "and a redirect leads no further"
            tagged("none")
            assert not attempt(f"host.dunlin.internal:{inner}")[0]
            assert world.outside("python", "follow", {"url": f"http://127.0.0.1:{outer}/"})[0], "the control"
        finally:
            client.untag_resource(Resource=arn, TagKeys=["dunlin:egress"])
        seen = world.server.admin("network?function=python")
        assert seen["functions"][f"{arn}"]["connections"] >= 3
        assert any(connection["refused"] == "the address serves a cloud's metadata" for connection in seen["connections"])
        assert any(connection["target"] == f"host.dunlin.internal:{inner}" and connection["receivedBytes"] > 0
                   for connection in seen["connections"])


def test_another_sandboxs_abstract_socket_is_not_reached(world):
    if "python" not in world.families:
        pytest.skip("needs Python")
    name = f"between-{world.privilege}"
    assert world.attempt("python", "listen_abstract", {"name": name})[0]
    assert world.attempt("python", "abstract_socket", {"name": name})[0], "the control: its own is reached"
    assert not world.attempt("python", "abstract_socket", {"name": name}, "large")[0]


@pytest.mark.parametrize("host", ["169.254.100.1", "lambda.us-east-1.amazonaws.com", "localhost"])
def test_the_admin_interface_is_closed_to_functions(world, host):
    key = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/dunlin/aws4_request, "
                            "SignedHeaders=host, Signature=0"}
    for family in world.families:
        for path in ("/_dunlin/ps", "/_dunlin/usage", "/_dunlin/bill"):
            event = {"host": "169.254.100.1", "path": path, "headers": {"Host": host, **key}}
            did, detail = world.attempt(family, "http", event)
            assert not did and re.match(r"(EACCES )?.*\b(403|421)\b", detail), (host, path, detail)
    assert world.server.http("GET", "/_dunlin/ps", key)[0] == 200, "the control"


# What doctor says.


def test_doctor_tells_what_is_enforced(world):
    process = world.server.popen([str(world.server.binary), "doctor", "--json"], stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE, text=True)
    said, wrong = process.communicate(timeout=30)
    assert process.returncode == 0, wrong
    told = json.loads(said)
    assert {wall["name"]: wall["state"].lower() for wall in told["walls"]} == world.walls
    assert told["softOrMissing"] == sum(state != "hard" for state in world.walls.values())
    fixed = {"own root", "process namespace", "size of /tmp"}
    assert all(world.walls[name] == "hard" for name in fixed)
    if world.privilege == "ordinary" and IS_ROOT:
        # No cgroup is delegated to a user that was made up a moment ago.
        assert {world.walls[name] for name in ("memory limit", "process limit", "processor share")} == {"soft"}


@pytest.mark.skipif(not IS_ROOT, reason="an ordinary user with delegated cgroups has hard walls")
def test_required_walls_are_required():
    with server_of("ordinary", args=["--require-hard-walls"]) as server:
        process = server.popen(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said, _ = process.communicate(timeout=20)
        assert process.returncode not in (0, None) and "is required and does not stand hard" in said


@pytest.mark.skipif(not IS_ROOT, reason="an ordinary user with delegated cgroups has hard walls")
def test_accounts_share_hard_walls_only():
    """In `dev` a key of twelve digits is an account's own; `up` on the same folder looks at who may share the machine."""
    with server_of("ordinary") as server:
        server.start()
        runtime = runtimes(server)["python"]
        for account in ("111111111111", "222222222222"):
            server.client("lambda", keys=(account, "test")).create_function(
                FunctionName="theirs", Runtime=runtime, Handler="main.handler", Role=f"arn:aws:iam::{account}:role/r",
                Code={"ZipFile": package(main__py=VICTIM)},
            )
        assert server.stop() == 0
        server.mode, server.clients = "up", {}
        process = server.popen(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said, _ = process.communicate(timeout=20)
        assert process.returncode not in (0, None) and "several accounts" in said and "--allow-soft-walls" in said, said
        server.args = ["--allow-soft-walls"]
        server.start()
        assert server.stop() == 0
