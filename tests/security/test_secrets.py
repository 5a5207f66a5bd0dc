"""Who gets in, and where the secrets are: files, processes, logs, addresses, signatures, temporary keys.

Each refusal has a control: the same thing done rightly succeeds.
"""

import base64
import datetime
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import shutil
import socket
import ssl
import stat
import subprocess
import time
import urllib.request
import warnings

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.exceptions
import pytest

from chaos.servers import (
    IS_ROOT, PRIVILEGES, REGION, ROLE, SERVICE_ID, Server, free_port, free_uid, package, process_stat, program, runtimes,
    server_of, wait_until,
)

SESSION_CODE = """
import json, os, urllib.request

def handler(event, context):
    return {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")}
"""


@pytest.fixture(scope="module")
def production():
    with Server("up") as running:
        yield running.start()
        assert running.stop() == 0


# Files and processes.


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("privilege", PRIVILEGES)
@pytest.mark.parametrize("mode", ["dev", "up"])
def test_the_data_folder_is_private(privilege, mode):
    with server_of(privilege, mode=mode) as server:
        # What was open before is closed at the start.
        server.data.mkdir(mode=0o755)
        server.data.chmod(0o755)
        if server.uid is not None:
            os.chown(server.data, server.uid, server.uid)
        server.start()
        assert mode_of(server.data) == 0o700
        owner = SERVICE_ID if privilege == "root" else server.uid if server.uid is not None else os.geteuid()
        assert server.data.stat().st_uid == owner
        for secret in [*server.data.glob("keys/*"), server.data / "authority/authority.key"]:
            assert mode_of(secret) == 0o600, secret
        for folder in ("keys", "authority", "store", "blobs", "usage"):
            assert mode_of(server.data / folder) == 0o700, folder
        assert server.stop() == 0


def holders(server, needles):
    """Where any of the needles is written: files of the data folder, its log, and what its processes show."""
    found = {str(path) for path in server.data.rglob("*") if path.is_file() and has(path, needles)}
    if has(server.log_path, needles):
        found.add("log")
    for pid in (server.process.pid, *(pid for pid, _ in server.family())):
        for name in ("cmdline", "environ"):
            if has(pathlib.Path(f"/proc/{pid}/{name}"), needles):
                found.add(f"{name} of a process")
    return found


def has(path, needles):
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return any(needle in content for needle in needles)


def test_the_root_secret_is_in_one_file_only():
    with Server("up", env={"DUNLIN_LOG": "trace"}) as server:
        server.start()
        key, secret = server.credentials()
        server.create("f", SESSION_CODE, "python3.11", Timeout=30)
        session, _ = server.invoke("f")
        assert secret not in json.dumps(session)
        # Calls that fail are the ones whose details get logged.
        with pytest.raises(botocore.exceptions.ClientError):
            server.client("lambda", keys=(key, secret[::-1])).list_functions()
        file = server.data / "keys/root-credentials"
        needles = [secret.encode(), base64.b64encode(secret.encode()), secret.encode().hex().encode()]
        assert holders(server, needles) == {str(file)}
        # The log does hold what it should, so that looking there proves something.
        assert has(server.log_path, [b"root-credentials"])
        # Nor is the secret that temporary keys come from, nor a function's, anywhere else.
        file = server.data / "keys/session-secret"
        assert holders(server, [file.read_bytes().strip()]) == {str(file)}
        secrets_of_function = [session["AWS_SECRET_ACCESS_KEY"].encode(), session["AWS_SESSION_TOKEN"].encode()]
        assert holders(server, secrets_of_function) <= {"environ of a process"}
        assert server.stop() == 0
        before = server.credentials()
        server.start()
        assert server.credentials() == before, "the root key is made once"


def test_an_open_root_key_is_refused():
    with Server("up") as server:
        server.start()
        server.stop()
        (server.data / "keys/root-credentials").chmod(0o644)
        said = refused_start(server)
        assert "root-credentials" in said and "chmod 600" in said


def refused_start(server, command=None, seconds=20):
    """Starts what must not start: what it said. It listens nowhere meanwhile."""
    process = server.popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"it started: {process.communicate()[0]}") from None
    assert process.returncode not in (0, None), said
    assert "panicked" not in said, said
    return said


@pytest.mark.skipif(not IS_ROOT, reason="only root can make a folder of somebody else")
@pytest.mark.parametrize("privilege", ["root", "ordinary"])
def test_somebody_elses_folder_is_refused(privilege):
    with server_of(privilege) as server:
        server.folder.chmod(0o755)
        server.data.mkdir()
        owner = free_uid() + 1 if server.uid is None else 0
        os.chown(server.data, owner, owner)
        said = refused_start(server)
        assert f"belongs to the user id {owner}" in said and "--data-dir" in said
        assert server.data.stat().st_uid == owner and not list(server.data.iterdir()), "it is left as it was"


@pytest.mark.skipif(not IS_ROOT, reason="only root is asked to give a folder away")
def test_links_do_not_lead_out_of_the_folder():
    """Whoever wrote into the folder before does not choose what root gives away."""
    with Server() as server:
        outside = server.folder / "outside"
        outside.write_text("root's")
        server.data.mkdir()
        (server.data / "code").mkdir()
        (server.data / "code/link").symlink_to(outside)
        server.start()
        assert outside.stat().st_uid == 0
        server.stop()


@pytest.mark.parametrize("privilege", PRIVILEGES)
def test_a_second_server_on_the_folder_is_refused(privilege):
    with server_of(privilege) as server:
        server.start()
        command = server.command()
        command[command.index("--listen") + 1] = f"127.0.0.1:{free_port()}"
        said = refused_start(server, command)
        assert str(server.process.pid) in said or "another" in said or "in use" in said, said
        # The first goes on, sandboxes included.
        server.create("f", SESSION_CODE, runtimes(server)["python"], Timeout=30)
        assert "AWS_ACCESS_KEY_ID" in server.invoke("f")[0]
        assert server.stop() == 0


def test_a_taken_port_is_refused():
    with Server() as server, socket.create_server(("127.0.0.1", 0)) as taken:
        server.port = taken.getsockname()[1]
        said = refused_start(server)
        assert str(server.port) in said and "--listen" in said


# Addresses and TLS.


@pytest.mark.parametrize(("mode", "arguments", "words"), [
    ("up", [], "--tls-cert"),
    ("dev", [], "loopback only"),
    ("dev", ["--behind-proxy"], "loopback only"),
])
def test_clear_text_does_not_leave_loopback(mode, arguments, words):
    with Server(mode, args=arguments) as server:
        for address in ("0.0.0.0", "[::]"):
            command = server.command()
            command[command.index("--listen") + 1] = f"{address}:{server.port}"
            assert words in refused_start(server, command)
            assert not server.data.exists(), "nothing half-done is left behind"


def test_a_proxy_in_front_may_be_named():
    with Server("up", args=["--behind-proxy"]) as server:
        original = server.command
        server.command = lambda: [part.replace("127.0.0.1:", "0.0.0.0:") for part in original()]
        server.start()
        assert server.http("GET", "/2015-03-31/functions")[0] == 403
        assert server.client("sts").get_caller_identity()["Arn"].endswith(":root")


def certificate(folder):
    """A key and a certificate of localhost, made by openssl."""
    key, chain = folder / "tls.key", folder / "tls.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", key, "-out", chain], check=True, capture_output=True,
    )
    key.chmod(0o600)
    return chain, key


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_tls_works_with_a_certificate_of_ones_own():
    with Server("up", scheme="https") as server:
        chain, key = certificate(server.folder)
        server.args = ["--tls-cert", str(chain), "--tls-key", str(key)]
        original = server.command
        server.command = lambda: [part.replace("127.0.0.1:", "0.0.0.0:") for part in original()]
        trusting = ssl.create_default_context(cafile=chain)
        url = f"https://localhost:{server.port}/_dunlin/health"

        def answers():
            assert server.process.poll() is None, server.log()
            try:
                return urllib.request.urlopen(url, context=trusting, timeout=5).status == 200
            except OSError:
                return False

        server.launch()
        wait_until("the health check answers over TLS", answers, 30)
        assert server.client("sts", verify=str(chain)).get_caller_identity()["Arn"].endswith(":root")
        with pytest.raises(botocore.exceptions.SSLError):
            server.client("sts").get_caller_identity()
        assert server.is_ready() is False, "clear text is not served on the same port"
        warnings.simplefilter("ignore", DeprecationWarning)
        old = ssl.create_default_context(cafile=chain)
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
        with pytest.raises(OSError):
            urllib.request.urlopen(url, context=old, timeout=5)
        assert server.stop() == 0


def test_half_a_certificate_is_refused():
    with Server("up") as server:
        absent = str(server.folder / "absent.pem")
        for arguments, words in (
            (["--tls-cert", absent], "--tls-key"),
            (["--tls-cert", absent, "--tls-key", absent], "absent.pem"),
            (["--tls-cert", str(server.binary), "--tls-key", str(server.binary)], "certificate"),
        ):
            server.args = arguments
            assert words in refused_start(server)


# Signatures of a production server.


class At:
    """A clock for botocore that is off by some seconds."""

    def __init__(self, seconds):
        self.seconds = seconds

    def now(self):
        return datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None) + datetime.timedelta(seconds=self.seconds)


def signed(server, keys, method="POST", path="/", body=b"{}", headers=None, service="dynamodb", off=0, monkeypatch=None):
    """The headers of a signed request."""
    headers = {"X-Amz-Target": "DynamoDB_20120810.ListTables", "Content-Type": "application/x-amz-json-1.0"} | (headers or {})
    request = botocore.awsrequest.AWSRequest(method, f"http://localhost:{server.port}{path}", headers=headers, data=body)
    clock = At(off).now()
    for name in ("get_current_datetime",):
        if hasattr(botocore.auth, name):
            monkeypatch.setattr(botocore.auth, name, lambda *_, **__: clock)
    botocore.auth.SigV4Auth(botocore.credentials.Credentials(*keys), service, REGION).add_auth(request)
    return dict(request.headers) | {"Host": f"localhost:{server.port}"}


def call(server, headers, body=b"{}", path="/"):
    status, _, text = server.http("POST", path, headers, body)
    kind = json.loads(text).get("__type", "").split("#")[-1] if text.startswith(b"{") else ""
    return status, kind


def test_wrong_signatures_are_refused(production, monkeypatch):
    keys = production.credentials()
    sign = lambda **more: signed(production, more.pop("keys", keys), monkeypatch=monkeypatch, **more)
    assert call(production, sign()) == (200, "")

    unsigned = {name: value for name, value in sign().items() if name not in ("Authorization", "X-Amz-Date")}
    assert call(production, unsigned) == (403, "MissingAuthenticationTokenException")
    assert call(production, unsigned | {"Authorization": "x"})[0] in (400, 403)
    wrong_secret = sign(keys=(keys[0], keys[1][::-1]))
    assert call(production, wrong_secret) == (400, "InvalidSignatureException")
    wrong_key = sign(keys=("AKIA" + "A" * 16, keys[1]))
    assert call(production, wrong_key) == (400, "UnrecognizedClientException")
    assert call(production, sign(keys=("test", "test")))[0] == 400
    tampered = sign(body=b'{"Limit": 1}')
    assert call(production, tampered, b'{"Limit": 2}') == (400, "InvalidSignatureException")
    claimed = tampered | {"X-Amz-Content-SHA256": hashlib.sha256(b'{"Limit": 1}').hexdigest()}
    assert call(production, claimed, b'{"Limit": 2}')[0] == 400
    assert call(production, tampered | {"X-Amz-Content-SHA256": "UNSIGNED-PAYLOAD"}, b'{"Limit": 2}')[0] == 400
    for change in ({"X-Amz-Target": "DynamoDB_20120810.DeleteTable"}, {"Host": "127.0.0.1"}):
        assert call(production, sign() | change)[0] == 400, change
    assert call(production, sign(), path="/?x=1")[0] == 400
    assert call(production, sign(service="lambda"))[0] in (400, 403, 404), "a signature for another service"


@pytest.mark.parametrize("off", [-3600, -901, 901, 3600])
def test_old_and_future_requests_are_refused(production, monkeypatch, off):
    headers = signed(production, production.credentials(), off=off, monkeypatch=monkeypatch)
    assert call(production, headers) == (400, "InvalidSignatureException")
    # A date that is moved without the key does not help.
    fresh = signed(production, production.credentials(), monkeypatch=monkeypatch)
    assert call(production, headers | {"X-Amz-Date": fresh["X-Amz-Date"]})[0] == 400
    near = signed(production, production.credentials(), off=off // abs(off) * 240, monkeypatch=monkeypatch)
    assert call(production, near)[0] == 200, "the control: a clock that is a little off"


def test_admin_wants_the_root_key(production, monkeypatch):
    def ask(keys, **more):
        headers = signed(production, keys, "GET", "/_dunlin/ps", b"", {"X-Amz-Target": "x"}, "dunlin", monkeypatch=monkeypatch)
        return production.http("GET", "/_dunlin/ps", headers | more)[0]

    assert ask(production.credentials()) == 200
    assert ask(("test", "test")) == 403
    assert ask(production.credentials(), Authorization="Basic dGVzdDp0ZXN0") == 403
    assert ask(function_keys(production)) == 403, "a function's key is no operator's"


# Temporary keys of functions.


def function_keys(server):
    """The keys that a function has inside."""
    names = {entry["FunctionName"] for entry in server.client("lambda").list_functions()["Functions"]}
    if "session" not in names:
        server.create("session", SESSION_CODE, "python3.11", Timeout=30)
    answer, _ = server.invoke("session")
    return answer["AWS_ACCESS_KEY_ID"], answer["AWS_SECRET_ACCESS_KEY"], answer["AWS_SESSION_TOKEN"]


def code_of(call):
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        call()
    return refused.value.response["Error"]["Code"]


def test_a_functions_keys_work(production):
    keys = function_keys(production)
    identity = production.client("sts", keys=keys).get_caller_identity()
    assert identity["Arn"].startswith("arn:aws:sts::000000000000:assumed-role/test/"), identity
    assert production.client("dynamodb", keys=keys).list_tables()["TableNames"] == []
    wrong = (keys[0], keys[1][::-1], keys[2])
    assert code_of(production.client("dynamodb", keys=wrong).list_tables) == "InvalidSignatureException"
    assert code_of(production.client("dynamodb", keys=keys[:2]).list_tables) == "UnrecognizedClientException"
    raw = bytearray(base64.b64decode(keys[2]))
    raw[5] ^= 1
    forged = (keys[0], keys[1], base64.b64encode(raw).decode())
    assert code_of(production.client("dynamodb", keys=forged).list_tables) == "UnrecognizedClientException"


INSIDE_CODE = """
import datetime, hashlib, hmac, json, os, urllib.error, urllib.request

def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()

def call(target, body, broken=False):
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    host, now = endpoint.split("/")[2], datetime.datetime.utcnow().strftime("%Y%m%dT%H%M%SZ")
    token, region = os.environ["AWS_SESSION_TOKEN"], os.environ["AWS_REGION"]
    names = "host;x-amz-date;x-amz-security-token;x-amz-target"
    canonical = "\\n".join(["POST", "/", "", f"host:{host}", f"x-amz-date:{now}", f"x-amz-security-token:{token}",
        f"x-amz-target:{target}", "", names, hashlib.sha256(body).hexdigest()])
    scope = f"{now[:8]}/{region}/dynamodb/aws4_request"
    text = "\\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
    for part in scope.split("/"):
        key = sign(key, part)
    signature = "0" * 64 if broken else sign(key, text).hex()
    headers = {"Host": host, "X-Amz-Date": now, "X-Amz-Security-Token": token, "X-Amz-Target": target,
        "Content-Type": "application/x-amz-json-1.0",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={os.environ['AWS_ACCESS_KEY_ID']}/{scope}, "
            f"SignedHeaders={names}, Signature={signature}"}
    try:
        with urllib.request.urlopen(urllib.request.Request(endpoint, body, headers), timeout=10) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code

def handler(event, context):
    list_tables = "DynamoDB_20120810.ListTables"
    return [call(list_tables, b"{}"), call(list_tables, b"{}", broken=True)]
"""


def test_a_function_calls_the_platform_from_inside(production):
    production.create("inside", INSIDE_CODE, "python3.11", Timeout=30)
    assert production.invoke("inside")[0] == [200, 400]


def made_keys(server, ends_in_s):
    """A function's keys that end then, made as the server makes them, from its secret."""
    secret = bytes.fromhex((server.data / "keys/session-secret").read_text().strip())
    mac = lambda purpose, content: hmac.new(secret, purpose + b"\0" + content, hashlib.sha256).digest()

    def number(value):
        coded = bytearray()
        while value > 0x7F:
            coded.append(value & 0x7F | 0x80)
            value >>= 7
        return bytes(coded) + bytes([value])

    text = lambda value: number(len(value)) + value.encode()
    session = text(ROLE) + text("session") + number(int((time.time() + ends_in_s) * 1000)) + number(secrets.randbits(63))
    token = base64.b64encode(session + mac(b"session", session))
    letters = "".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[byte % 32] for byte in mac(b"access", token)[:16])
    return "ASIA" + letters, base64.b64encode(mac(b"secret", token)).decode()[:40], token.decode()


def test_a_functions_keys_end(production):
    assert production.client("dynamodb", keys=made_keys(production, 60)).list_tables()["TableNames"] == []
    assert code_of(production.client("dynamodb", keys=made_keys(production, -1)).list_tables) == "ExpiredTokenException"
    # At the moment itself, not at some later look: the same keys, before and after. A busy machine gets longer ones.
    for lasts_s in (1.5, 6, 24):
        ends = time.monotonic() + lasts_s
        client = production.client("dynamodb", keys=made_keys(production, lasts_s))
        try:
            assert client.list_tables()["TableNames"] == []
            break
        except botocore.exceptions.ClientError:
            assert time.monotonic() > ends and lasts_s < 24, "refused before they ended"

    def ended():
        try:
            client.list_tables()
        except botocore.exceptions.ClientError as error:
            return error.response["Error"]["Code"]
        return None

    assert wait_until("the keys end", ended, 40) == "ExpiredTokenException"


def test_keys_of_another_folder_are_unknown(production):
    with Server("up") as other:
        other.start()
        for keys in (other.credentials(), made_keys(other, 60)):
            refused = code_of(production.client("dynamodb", keys=keys).list_tables)
            assert refused == "UnrecognizedClientException"
            assert other.client("dynamodb", keys=keys).list_tables()["TableNames"] == [], "the control"


# The process itself.


@pytest.mark.skipif(not IS_ROOT, reason="only root has something to give away")
def test_a_server_that_root_started_has_no_privilege():
    with Server() as server:
        server.start()
        status = dict(
            line.split(":\t", 1) for line in pathlib.Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
        )
        assert status["Uid"].split() == [str(SERVICE_ID)] * 4 and status["Gid"].split() == [str(SERVICE_ID)] * 4
        assert all(int(status[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
        assert status["NoNewPrivs"] == "1" and status["Groups"].split() in ([], [str(SERVICE_ID)])
        # The one that keeps privileges hears nobody but the server.
        spawner, _ = server.spawners[0]
        assert process_stat(spawner)
        inodes = {os.readlink(fd)[8:-1] for fd in pathlib.Path(f"/proc/{spawner}/fd").iterdir() if is_socket(fd)}
        internet = set()
        for table in ("tcp", "tcp6", "udp", "udp6", "raw", "raw6"):
            lines = pathlib.Path(f"/proc/{spawner}/net/{table}").read_text().splitlines()[1:]
            internet |= {line.split()[9] for line in lines}
        assert not inodes & internet, "the spawner has an IP socket"
        server.stop()


def is_socket(fd):
    try:
        return os.readlink(fd).startswith("socket:")
    except OSError:
        return False


def test_the_version_says_no_secret():
    """The program answers without a server, a folder or a key."""
    said = subprocess.run([program(), "--version"], capture_output=True, text=True, check=True).stdout
    assert said.startswith("dunlin ")
