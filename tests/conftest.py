"""What every black-box test stands on: running servers, clients, packages, and waiting for conditions.

A server is the real program in a process of its own, on a free port, with a temporary data folder. `dev` and `up` live
as long as a pytest worker; `server` runs a test against each of them. When a test fails, what the servers logged
meanwhile is part of the report. Nothing here uses the platform's inside.
"""

import configparser
import io
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
import zipfile

import boto3
import botocore.config
import botocore.exceptions
import pytest
import requests

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROLE = "arn:aws:iam::000000000000:role/tests"
PYTHON = "python3.11"
NODE = "nodejs20.x"
JAVA = "java17"
# Slow machines take longer; a condition that never comes true costs this once.
PATIENCE_S = 30


def binary():
    """The program under test."""
    path = pathlib.Path(os.environ.get("DUNLIN_BIN", ROOT / "target/debug/dunlin"))
    if not path.is_file():
        pytest.exit(f"{path} is not there: build it with `cargo build`, or name another with DUNLIN_BIN", 2)
    return str(path)


def wait_for(condition, what="the condition", timeout_s=PATIENCE_S, every_s=0.05):
    """Calls `condition` until it returns something true, and returns that."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {timeout_s} s (last: {value!r})")
        time.sleep(every_s)


def zipped(files):
    """A package: names to text or bytes; a value of (content, mode) sets the permissions."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            content, mode = content if isinstance(content, tuple) else (content, 0o644)
            info = zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o100000 | mode) << 16
            archive.writestr(info, content)
    return out.getvalue()


def name_of(prefix="t"):
    """A name that no other test uses."""
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def refused(call, **arguments):
    """The status, code and message of a refusal."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


def clean_environment(**more):
    """This process's environment without what would lead a client elsewhere."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "DUNLIN_"))}
    return kept | more


class Server:
    """One running `dunlin dev` or `dunlin up`."""

    def __init__(self, mode, *arguments):
        self.mode = mode
        self.arguments = arguments
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix=f"dunlin-test-{mode}-"))
        # A server that root started drops to an id of its own, which must reach its folder.
        self.folder.chmod(0o755)
        self.data_dir = self.folder / "data"
        self.log_file = self.folder / "log"
        self.process = None
        self.clients = {}
        self.start()

    def start(self):
        """Starts the program and waits until it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [binary(), self.mode, "--listen", f"127.0.0.1:{self.port}", "--data-dir", str(self.data_dir)]
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                command + list(self.arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=clean_environment(NO_COLOR="1"),
            )
        wait_for(self.ready, f"a ready `dunlin {self.mode}`")
        self.clients.clear()
        self.access_key, self.secret_key = "test", "test"
        if self.mode == "up":
            ini = configparser.ConfigParser()
            ini.read(self.key_file)
            self.access_key = ini["default"]["aws_access_key_id"]
            self.secret_key = ini["default"]["aws_secret_access_key"]

    def ready(self):
        """Whether it answers; a program that ended is an error at once."""
        if self.process.poll() is not None:
            raise AssertionError(f"dunlin {self.mode} ended with {self.process.returncode}:\n{self.log()}")
        try:
            return requests.get(f"{self.url}/_dunlin/health", timeout=5).status_code == 200
        except requests.ConnectionError:
            return False

    @property
    def key_file(self):
        """Where the root key of `up` is."""
        return self.data_dir / "keys" / "root-credentials"

    def log(self, offset=0):
        """What it wrote since `offset`."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_bytes()[offset:].decode(errors="replace")

    def stop(self):
        """Ends it as an operator would, and returns its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"dunlin {self.mode} did not stop:\n{self.log()[-4000:]}") from None

    def remove(self):
        """Stops it and removes its folder."""
        try:
            self.stop()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def session(self, access_key=None, secret_key=None):
        """A boto3 session with the server's keys, or others."""
        return boto3.Session(access_key or self.access_key, secret_key or self.secret_key, region_name="us-east-1")

    def client(self, service, access_key=None, secret_key=None, **options):
        """A boto3 client of this server that does not repeat failed calls."""
        key = (service, access_key, secret_key, tuple(sorted(options.items())))
        if key not in self.clients:
            # What a client would refuse by itself is for the server to refuse.
            config = botocore.config.Config(**{
                "parameter_validation": False, "retries": {"total_max_attempts": 1}, "read_timeout": 60, "connect_timeout": 10,
                "max_pool_connections": 64, **options,
            })
            session = self.session(access_key, secret_key)
            self.clients[key] = session.client(service, endpoint_url=self.url, config=config)
        return self.clients[key]

    def resource(self, service):
        """A boto3 resource of this server."""
        return self.session().resource(service, endpoint_url=self.url)

    def environment(self, **more):
        """Variables for other programs that are clients of this server."""
        return clean_environment(
            AWS_ENDPOINT_URL=self.url, AWS_ACCESS_KEY_ID=self.access_key, AWS_SECRET_ACCESS_KEY=self.secret_key,
            AWS_DEFAULT_REGION="us-east-1", AWS_REGION="us-east-1", AWS_EC2_METADATA_DISABLED="true",
            AWS_CONFIG_FILE="/dev/null", AWS_SHARED_CREDENTIALS_FILE="/dev/null", **more,
        )

    def function(self, files, runtime=PYTHON, handler="handler.handler", **settings):
        """Creates a function of a fresh name; `files` may be the text of its one file."""
        if isinstance(files, str):
            files = {{"p": "handler.py", "n": "handler.js"}[runtime[0]]: files}
        settings.setdefault("FunctionName", name_of())
        settings.setdefault("Timeout", 10)
        settings.setdefault("MemorySize", 256)
        made = self.client("lambda").create_function(
            Runtime=runtime, Handler=handler, Role=ROLE, Code={"ZipFile": zipped(files)}, **settings
        )
        return made["FunctionName"]

    def function_url(self, name, **settings):
        """Makes a URL for a function and returns its path form, which every client reaches."""
        settings.setdefault("AuthType", "NONE")
        made = self.client("lambda").create_function_url_config(FunctionName=name, **settings)
        if settings["AuthType"] == "NONE":
            self.open_url(name, **{key: settings[key] for key in ("Qualifier",) if key in settings})
        identity = made["FunctionUrl"].split("://")[1].split(".")[0]
        return f"{self.url}/_dunlin/url/{identity}/"

    def open_url(self, name, **settings):
        """Lets everybody call the URL of a function, as AWS wants it to be said."""
        self.client("lambda").add_permission(
            FunctionName=name, StatementId="public", Action="lambda:InvokeFunctionUrl", Principal="*",
            FunctionUrlAuthType="NONE", **settings,
        )


def _server(mode):
    server = Server(mode)
    yield server
    server.remove()


@pytest.fixture(scope="session")
def dev():
    """A development server."""
    yield from _server("dev")


@pytest.fixture(scope="session")
def up():
    """A production server."""
    yield from _server("up")


@pytest.fixture(scope="session")
def java():
    """A development server that has the runtime pack of Java."""
    server = Server("dev")
    try:
        # Without the pack no function runs, and what to do is said.
        name = server.function({"a.txt": "1"}, runtime=JAVA, handler="functions.Echo")
        answer = server.client("lambda").invoke(FunctionName=name, Payload=b"{}")
        assert f"run `dunlin runtimes add {JAVA}`" in answer["Payload"].read().decode()
    except botocore.exceptions.ClientError as error:
        assert f"dunlin runtimes add {JAVA}" in str(error), error
    added = subprocess.run(
        [binary(), "runtimes", "add", JAVA], env=server.environment(), capture_output=True, text=True, timeout=300, check=False
    )
    assert added.returncode == 0, added.stderr
    yield server
    server.remove()


def pytest_generate_tests(metafunc):
    """`server` means: once with each kind."""
    if "server" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("modes")
        metafunc.parametrize("server", marker.args if marker else ["dev", "up"], indirect=True)


@pytest.fixture
def server(request):
    """The server of this run of a test."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def own_server():
    """Starts servers that belong to one test, which may stop and break them."""
    started = []

    def start(mode="dev", *arguments):
        started.append(Server(mode, *arguments))
        return started[-1]

    yield start
    for server in started:
        server.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Adds the servers' logs to the report of a failed test."""
    report = yield
    if call.when == "call" and report.failed:
        for server in servers_of(item):
            offset = item.stash.get(LOG_OFFSETS, {}).get(server.folder, 0)
            report.sections.append((f"log of dunlin {server.mode}", server.log(offset)[-8000:]))
    return report


def servers_of(item):
    """The servers of a test: those that it is given, and those of what it is given."""
    found = [getattr(value, "server", value) for value in item.funcargs.values()]
    return [server for server in found if isinstance(server, Server)]


LOG_OFFSETS = pytest.StashKey[dict]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Remembers where the logs were when a test began."""
    item.stash[LOG_OFFSETS] = {server.folder: server.log_file.stat().st_size for server in servers_of(item)}
    return (yield)
