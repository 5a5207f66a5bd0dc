"""Servers for the tests here and beside: start, kill and restart one on its data folder; clients; what a server leaves.

Start reading at `Server`. A server runs as whoever runs the tests, or as an ordinary user (`uid`), where the tests run
as root. Everything is waited for by looking, never by sleeping for luck.
"""

import contextlib
import http.client
import io
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zipfile

import boto3
import botocore.config

ROOT = pathlib.Path(__file__).resolve().parents[2]
REGION = "us-east-1"
ROLE = "arn:aws:iam::000000000000:role/test"
IS_ROOT = os.geteuid() == 0
#: The user id that the server takes when root starts it.
SERVICE_ID = 0x7001_0000


#: Source of `put(table, item)` for functions: through their own endpoint and keys, without an SDK.
PUT_ITEM = """
import json, os, urllib.request

def put(table, item):
    request = urllib.request.Request(os.environ["AWS_ENDPOINT_URL"], json.dumps({"TableName": table, "Item": item}).encode(), {
        "X-Amz-Target": "DynamoDB_20120810.PutItem",
        "Content-Type": "application/x-amz-json-1.0",
        "Authorization": "AWS4-HMAC-SHA256 Credential=" + os.environ["AWS_ACCESS_KEY_ID"]
            + "/20250101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0",
    })
    urllib.request.urlopen(request, timeout=10).read()
"""


def program():
    """The program under test: DUNLIN_BIN, else what cargo built last."""
    if os.environ.get("DUNLIN_BIN"):
        return pathlib.Path(os.environ["DUNLIN_BIN"]).resolve()
    target = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    built = [path for path in (target / "debug/dunlin", target / "release/dunlin") if path.exists()]
    if not built:
        raise SystemExit("there is no dunlin: run `cargo build -p server`, or say where it is with DUNLIN_BIN")
    return max(built, key=lambda path: path.stat().st_mtime).resolve()


def free_port():
    """A port that nobody listens on, and nobody asked for just before."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def free_uid():
    """A user id that no account and no process has, so that whatever runs under it is the test's."""
    taken = {int(line.split(":")[2]) for line in pathlib.Path("/etc/passwd").read_text().splitlines()}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            taken.add(entry.stat().st_uid)
    uid = 61000 + os.getpid() % 3000
    while uid in taken:
        uid += 1
    return uid


def wait_until(what, condition, seconds=10.0):
    """Waits until `condition()` is true and answers its value; fails with `what` else."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.005)


def package(**files):
    """A zip of files; `__` in a name stands for its last dot: `index__js`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(".".join(name.rsplit("__", 1)), text)
    return content.getvalue()


def process_stat(pid):
    """State letter, parent and start time of a process, or None."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    except (OSError, IndexError):
        return None
    return fields[0], int(fields[1]), int(fields[19])


def is_alive(process):
    """Whether a process of `Server.family` still lives; a zombie does not."""
    stat = process_stat(process[0])
    return stat is not None and stat[2] == process[1] and stat[0] not in "ZX"


def descendants(pid):
    """All processes below one, as (pid, start time)."""
    parents = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        stat = process_stat(entry.name)
        if stat:
            parents.setdefault(stat[1], []).append((int(entry.name), stat[2]))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += [child for child, _ in children]
    return found


def processes_of(uid):
    """Living processes of a user id."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = process_stat(entry.name)
            if entry.stat().st_uid == uid and stat and stat[0] not in "ZX":
                found.append(int(entry.name))
    return found


def control_groups(spawners):
    """Control groups that these spawners made: `dunlin-<boot>-<spawner>-<start time>`."""
    marks = tuple(f"-{pid}-{start}" for pid, start in spawners)
    found = []
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        found += [os.path.join(folder, name) for name in names if name.startswith("dunlin-") and name.endswith(marks)]
    return found if marks else []


def mounts():
    """Mount points of the tests' own mount namespace."""
    return sorted(line.split()[4] for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines())


def create_table(client, name):
    """A table whose items have an `id`, a text."""
    client.create_table(
        TableName=name, BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )


def scan(server, table):
    """All items of a table by id."""
    pages = server.client("dynamodb").get_paginator("scan").paginate(TableName=table)
    return {item["id"]["S"]: item for page in pages for item in page["Items"]}


class Server:
    """One data folder and the server that runs on it, now or again."""

    def __init__(self, mode="dev", uid=None, args=(), env=None, scheme="http"):
        self.mode, self.uid, self.args, self.scheme = mode, uid, list(args), scheme
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dunlin-test-"))
        self.data = self.folder / "data"
        self.log_path = self.folder / "server.log"
        self.port = free_port()
        self.process = None
        self.binary = program()
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "DUNLIN_LOG": "info", **(env or {})}
        self.spawners = []
        self.clients = {}
        #: Seconds from exec to the first good answer of the health check, of each start.
        self.ready_seconds = []
        if uid is not None:
            os.chown(self.folder, uid, uid)
            self._copy_binary_if_hidden()

    def _copy_binary_if_hidden(self):
        visible = all(parent.stat().st_mode & 1 for parent in self.binary.parents)
        if not visible:
            copied = self.folder / "dunlin"
            shutil.copy(self.binary, copied)
            copied.chmod(0o755)
            self.binary = copied

    def command(self):
        """The command line."""
        listen = f"127.0.0.1:{self.port}"
        return [str(self.binary), self.mode, "--listen", listen, "--data-dir", str(self.data), *self.args]

    def popen(self, command=None, **options):
        """A process under the server's user."""
        ids = {} if self.uid is None else {"user": self.uid, "group": self.uid, "extra_groups": []}
        return subprocess.Popen(
            command or self.command(), env=self.environment, cwd=self.folder, stdin=subprocess.DEVNULL, **ids, **options
        )

    def launch(self):
        """Starts it and does not wait."""
        assert self.process is None
        with open(self.log_path, "ab") as log:
            self.process = self.popen(stdout=log, stderr=log)
        return self

    def start(self, seconds=30):
        """Starts it and waits until it is ready."""
        began = time.monotonic()
        self.launch()
        while not self.is_ready():
            assert self.process.poll() is None, f"the server ended:\n{self.log()}"
            assert time.monotonic() - began < seconds, f"not ready after {seconds} s:\n{self.log()}"
            time.sleep(0.002)
        self.ready_seconds.append(time.monotonic() - began)
        self.family()
        return self

    def is_ready(self):
        """Whether the health check says so now."""
        try:
            return self.http("GET", "/_dunlin/health", timeout=2)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def family(self):
        """The server's processes below itself, as (pid, start time); the first is the spawner."""
        below = descendants(self.process.pid)
        for child in below:
            stat = process_stat(child[0])
            if stat and stat[1] == self.process.pid and child not in self.spawners:
                self.spawners.append(child)
        return below

    def kill(self):
        """`kill -9`. Answers the processes that it had."""
        family = self.family()
        self.process.kill()
        self.process.wait()
        self.process = None
        return family

    def stop(self, seconds=20):
        """A graceful stop. Answers the exit code."""
        if self.process is None:
            return None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process = None

    def assert_nothing_left(self, family=(), seconds=10):
        """No process of the family, no control group of any start's spawner; of an ordinary user, no process at all."""
        wait_until(lambda: f"processes left: {[p for p in family if is_alive(p)]}",
                   lambda: not any(is_alive(process) for process in family), seconds)
        wait_until(lambda: f"control groups left: {control_groups(self.spawners)}",
                   lambda: not control_groups(self.spawners), seconds)
        if self.uid is not None:
            wait_until(lambda: f"processes left: {processes_of(self.uid)}", lambda: not processes_of(self.uid), seconds)

    def log(self):
        """What the server said so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def credentials(self):
        """Key and secret: any in `dev`, the root key in `up`."""
        if self.mode == "dev":
            return "test", "test"
        fields = dict(
            line.split(" = ", 1) for line in (self.data / "keys/root-credentials").read_text().splitlines() if " = " in line
        )
        return fields["aws_access_key_id"], fields["aws_secret_access_key"]

    def client(self, service, keys=None, pool=64, verify=None, **options):
        """A boto3 client that tries once; the same one for the same words, since making one is slow."""
        known = (service, keys or self.credentials(), pool, verify, tuple(sorted(options.items())))
        if known not in self.clients:
            self.clients[known] = self._client(service, keys or self.credentials(), pool, verify, options)
        return self.clients[known]

    def _client(self, service, keys, pool, verify, options):
        key, secret, *token = keys
        settings = botocore.config.Config(
            retries={"total_max_attempts": 1}, max_pool_connections=pool, connect_timeout=5, read_timeout=60, **options
        )
        return boto3.client(
            service, endpoint_url=f"{self.scheme}://localhost:{self.port}", region_name=REGION, config=settings,
            aws_access_key_id=key, aws_secret_access_key=secret, aws_session_token=token[0] if token else None,
            verify=verify,
        )

    def http(self, method, path, headers=None, body=None, timeout=30):
        """One plain request on a connection of its own: status, headers (lower case), body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def admin(self, path):
        """A document of the platform's own interface of `dev`."""
        status, _, body = self.http("GET", f"/_dunlin/{path}", {"Authorization": "test"})
        assert status == 200, (path, status, body)
        return json.loads(body)

    def create(self, name, code, runtime="python3.11", handler=None, **settings):
        """Creates a function of one file."""
        node = runtime.startswith("nodejs")
        files = {"index__js": code} if node else {"main__py": code}
        handler = handler or ("index.handler" if node else "main.handler")
        return self.client("lambda").create_function(
            FunctionName=name, Runtime=runtime, Handler=handler, Role=ROLE, Code={"ZipFile": package(**files)}, **settings
        )

    def open_url(self, name):
        """Lets everybody call the URL of a function."""
        self.client("lambda").add_permission(
            FunctionName=name, StatementId="public", Action="lambda:InvokeFunctionUrl", Principal="*", FunctionUrlAuthType="NONE"
        )

    def invoke(self, name, payload=None, **options):
        """Calls a function: its answer, and the whole response."""
        response = self.client("lambda").invoke(FunctionName=name, Payload=json.dumps(payload or {}), **options)
        text = response["Payload"].read()
        return (json.loads(text) if text else None), response

    def close(self):
        """Ends it for good and removes its data."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            print(f"--- the server's log\n{self.log()[-6000:]}")
        self.close()


def runtimes(server):
    """A runtime's name for each family that the server found an interpreter of: {"nodejs": …, "python": …}."""
    found = {}
    for interpreter in server.admin("runtimes")["interpreters"]:
        major, minor, _ = interpreter["version"]
        if interpreter["family"] == "nodejs":
            found.setdefault("nodejs", f"nodejs{major - major % 2}.x")
        elif interpreter["family"] == "python":
            found["python"] = f"python{major}.{minor}"
    return found


def ordinary_uid():
    """The id of an ordinary user for a server: a free one where the tests run as root, else the tests' own (None)."""
    return free_uid() if IS_ROOT else None


#: Privilege modes that can be tried here.
PRIVILEGES = ["root", "ordinary"] if IS_ROOT else ["ordinary"]


def server_of(privilege, **options):
    """A server of a privilege mode, not started."""
    return Server(uid=ordinary_uid() if privilege == "ordinary" else None, **options)
