"""`dunlin backup`, `restore`, `migrate` and `doctor --store`: a server's data in another place, whole or not at all."""

import json
import os
import pathlib
import subprocess
import threading

import pytest

from conftest import Server, binary, clean_environment, name_of
from test_deploy import dunlin
from test_dynamodb import make
from test_invoke import invoke

SOURCE = "def handler(event, context):\n    return 'kept'\n"


def alone(*arguments):
    """Runs a command that needs no server."""
    return subprocess.run(
        [binary(), *map(str, arguments)], env=clean_environment(), capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL,
    )


def put(server, table, key, text="v"):
    server.client("dynamodb").put_item(TableName=table, Item={"pk": {"S": key}, "text": {"S": text}})


def keys_of(server, table):
    found, start = set(), {}
    while True:
        page = server.client("dynamodb").scan(TableName=table, **start)
        found |= {item["pk"]["S"] for item in page["Items"]}
        if "LastEvaluatedKey" not in page:
            return found
        start = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


def restored(own_server, mode, data_dir):
    """A server of `mode` on a folder that is there already."""
    server = own_server(mode)
    server.stop()
    server.data_dir = pathlib.Path(data_dir)
    server.start()
    return server


@pytest.fixture
def place(tmp_path_factory):
    """A folder that a server which gave up root can reach."""
    folder = tmp_path_factory.mktemp("store")
    for parent in [folder, *folder.parents]:
        if parent.stat().st_uid == os.geteuid() and parent != pathlib.Path("/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return folder


@pytest.mark.parametrize("mode", ["dev", "up"])
def test_a_backup_of_a_running_server_is_restored(own_server, place, mode):
    server = own_server(mode)
    name = server.function(SOURCE)
    table = make(server)
    for number in range(40):
        put(server, table, f"before-{number}", "x" * 50_000)
    assert invoke(server, name)["json"] == "kept"

    # Written while the backup runs: a prefix of it is in the backup, in the order of acknowledgement.
    stop, written = threading.Event(), []

    def write():
        while not stop.is_set():
            put(server, table, f"during-{len(written):06}")
            written.append(f"during-{len(written):06}")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = dunlin(server, "backup", place / "backups", "--json")
    finally:
        stop.set()
        writer.join()
    assert done.code == 0, done.err
    manifest = done.json
    assert manifest["amount"]["blobs"] == 1 and manifest["amount"]["entries"] > 40
    put(server, table, "after")

    assert alone("restore", place / "backups", "--data-dir", place / "data").returncode == 0
    again = restored(own_server, mode, place / "data")
    found = keys_of(again, table)
    assert {f"before-{number}" for number in range(40)} <= found and "after" not in found
    during = sorted(found - {f"before-{number}" for number in range(40)})
    assert during == [f"during-{number:06}" for number in range(len(during))]
    assert invoke(again, name)["json"] == "kept"
    bill = json.loads(dunlin(again, "bill", "--json").out)["functions"]
    assert [row["requests"] for row in bill if row["function"] == name] == [2], "one call before the backup, one after"
    assert dunlin(again, "doctor", "--store").code == 0

    # A second backup adds to the first.
    done = dunlin(server, "backup", place / "backups")
    assert done.code == 0 and "is whole" in done.err
    names = sorted(entry.name for entry in (place / "backups").iterdir() if (entry / "manifest").exists())
    assert len(names) == 2 and names[0] == manifest["name"]
    assert alone("restore", place / "backups", "--data-dir", place / "older", "--backup", names[0]).returncode == 0


def test_what_restore_refuses(own_server, place):
    server = own_server("up")
    server.function(SOURCE)
    assert dunlin(server, "backup", place / "backups").code == 0
    done = alone("restore", place / "backups", "--data-dir", server.data_dir)
    assert done.returncode == 1 and "is not empty" in done.stderr
    done = alone("restore", place / "nothing", "--data-dir", place / "data")
    assert done.returncode == 1 and "no folder of backups" in done.stderr
    done = alone("restore", place / "backups", "--data-dir", place / "data", "--backup", "20200101T000000Z")
    assert done.returncode == 1 and "there is no whole backup 20200101T000000Z" in done.stderr
    blob = next((place / "backups/blobs/lambda/code").iterdir())
    content = bytearray(blob.read_bytes())
    content[10] ^= 1
    blob.write_bytes(content)
    done = alone("restore", place / "backups", "--data-dir", place / "data")
    assert done.returncode == 1 and "nothing was restored" in done.stderr and "lambda/code/" in done.stderr
    # A backup that verifies mends it: the blob is copied anew.
    assert dunlin(server, "backup", place / "backups", "--verify").code == 0
    assert alone("restore", place / "backups", "--data-dir", place / "data").returncode == 0
    assert sorted(path.name for path in place.iterdir()) == ["backups", "data"]


def test_what_backup_refuses(own_server, place):
    server = own_server("up")
    (place / "own").mkdir()
    (place / "own" / "letter").write_text("precious")
    done = dunlin(server, "backup", place / "own")
    assert done.code == 1 and "is no folder of backups" in done.err
    done = alone("backup", place / "backups", "--data-dir", server.data_dir)
    assert done.returncode == 1 and "in use by process" in done.stderr and "without --data-dir" in done.stderr
    done = alone("backup", place / "backups", "--data-dir", place / "own")
    assert done.returncode == 1 and "is no data folder" in done.stderr
    environment = server.environment() | {"AWS_SECRET_ACCESS_KEY": "wrong"}
    done = subprocess.run([binary(), "backup", str(place / "b")], env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1 and "signature" in done.stderr.lower()


def test_a_function_gets_nothing_of_a_backup(server):
    name = server.function(
        "import json, os, urllib.request\n"
        "def handler(event, context):\n"
        "    request = urllib.request.Request(os.environ['AWS_ENDPOINT_URL'] + event['path'], data=b'{}', method='POST')\n"
        "    request.add_header('authorization', 'AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/dunlin/aws4_request, SignedHeaders=host, Signature=0')\n"
        "    try:\n"
        "        return urllib.request.urlopen(request).status\n"
        "    except urllib.error.HTTPError as error:\n"
        "        return error.code\n"
    )
    for path in ["/_dunlin/backup/begin", "/_dunlin/store/keys"]:
        assert invoke(server, name, {"path": path})["json"] == 403


def test_a_stopped_server_is_backed_up_checked_and_moved(own_server, place):
    server = own_server("dev")
    name = server.function(SOURCE)
    table = make(server)
    put(server, table, "a")
    server.stop()
    done = alone("doctor", "--store", "--data-dir", server.data_dir, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    sizes = {row["name"]: row["sizes"]["entries"] for row in report["prefixes"]}
    assert {"functions", "tables"} <= sizes.keys() and "unknown" not in sizes
    assert report["blobs"]["count"] == 1 and report["damage"] == []

    assert alone("backup", place / "backups", "--data-dir", server.data_dir).returncode == 0
    done = alone("migrate", "--from", server.data_dir, "--to", place / "moved", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["amount"]["entries"] == sum(sizes.values())
    again = restored(own_server, "dev", place / "moved")
    assert keys_of(again, table) == {"a"}
    assert invoke(again, name)["json"] == "kept"
    # One that is begun from another state says how to begin anew, and no server opens what is not whole.
    (place / "half.migrating").mkdir(mode=0o700)
    (place / "half.migrating" / "store").mkdir()
    (place / "half.migrating" / "store" / "store.db").write_bytes(b"")
    (place / "half.migrating" / "blobs").mkdir()
    (place / "half.migrating" / "blobs" / "x~").write_bytes(b"")
    done = alone("migrate", "--from", server.data_dir, "--to", place / "half")
    assert done.returncode == 1 and "half.migrating first" in done.stderr and "not empty" in done.stderr
    done = alone("migrate", "--from", server.data_dir, "--to", place / "moved")
    assert done.returncode == 1 and "is not empty" in done.stderr
    done = alone("migrate", "--from", server.data_dir, "--to", "mysql://localhost/dunlin")
    assert done.returncode == 2 and "no engine for mysql://" in done.stderr

    # Damage is found and named.
    blob = next((server.data_dir / "blobs/lambda/code").iterdir())
    blob.write_bytes(blob.read_bytes()[:-1])
    done = alone("doctor", "--store", "--data-dir", server.data_dir)
    assert done.returncode == 1 and "DAMAGED" in done.stderr and "lambda/code/" in done.stderr


def test_doctor_of_a_running_server(server):
    table = make(server)
    put(server, table, "a")
    done = dunlin(server, "doctor", "--store")
    assert done.code == 0, done.err
    assert "tables" in done.out and "services/dynamodb" in done.out and "all checksums are right" in done.err
    assert "Commits since the start: " in done.out and "not yet in the tree" in done.out
    pace = json.loads(dunlin(server, "doctor", "--store", "--json").out)["pace"]
    assert pace["commits"] > 0 and pace["slowCommits"] <= pace["commits"]
    assert 0 < pace["longestUs"] and pace["lagBytes"] >= 0


def key_file(folder, name, digit):
    path = folder / name
    path.write_text(digit * 64 + "\n")
    path.chmod(0o600)
    return path


def holds(folder, text):
    """The files below a folder that hold a text."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def refuses_to_start(server, *arguments):
    done = alone(server.mode, "--listen", "127.0.0.1:0", "--data-dir", server.data_dir, *arguments)
    assert done.returncode == 1, done.stderr
    return done.stderr


def test_variables_are_sealed_without_a_key_too(own_server, place):
    secret = "very-secret-" + name_of()
    server = own_server("up")
    source = "import os\ndef handler(event, context):\n    return os.environ['SECRET']\n"
    name = server.function(source, Environment={"Variables": {"SECRET": secret}})
    client = server.client("lambda")
    client.publish_version(FunctionName=name)
    client.update_function_configuration(FunctionName=name, Description="other")
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    assert dunlin(server, "backup", place / "backups").code == 0
    assert server.stop() == 0
    for folder in ["store", "blobs", "usage"]:
        assert holds(server.data_dir / folder, secret) == []
    assert any((server.data_dir / "store").rglob("*"))
    key = server.data_dir / "records.key"
    assert key.stat().st_mode & 0o777 == 0o600
    server.start()
    for qualifier in ["$LATEST", "live"]:
        assert invoke(server, name, Qualifier=qualifier)["json"] == secret
    assert server.client("lambda").get_function_configuration(FunctionName=name)["Environment"] == {"Variables": {"SECRET": secret}}

    # What leaves the folder is whole without its key, and sealed again where it comes to.
    assert server.stop() == 0
    assert holds(place / "backups", secret)
    assert alone("restore", place / "backups", "--data-dir", place / "data").returncode == 0
    assert alone("migrate", "--from", server.data_dir, "--to", place / "moved").returncode == 0
    for folder in ["data", "moved"]:
        assert holds(place / folder / "store", secret) == []
        assert (place / folder / "records.key").read_text() != key.read_text()
        again = restored(own_server, "up", place / folder)
        assert invoke(again, name, Qualifier="live")["json"] == secret

    kept = key.read_text()
    key.unlink()
    assert "records.key is missing" in refuses_to_start(server)
    key.write_text(kept)
    key.chmod(0o600)
    server.start()
    assert invoke(server, name)["json"] == secret



def test_an_encrypted_server(own_server, place):
    secret = "very-secret-" + name_of()
    first, second = key_file(place, "first", "1"), key_file(place, "second", "2")
    server = own_server("up", "--encryption-key-file", str(first))
    name = server.function(SOURCE + f"# {secret}\n", Environment={"Variables": {"SECRET": secret}})
    table = make(server)
    put(server, table, "a", secret)
    assert invoke(server, name)["json"] == "kept"
    done = dunlin(server, "backup", place / "backups")
    assert done.code == 0, done.err
    assert dunlin(server, "doctor", "--store").code == 0
    assert server.stop() == 0
    for folder in [server.data_dir / "store", server.data_dir / "blobs", place / "backups"]:
        assert any(folder.rglob("*")) and holds(folder, secret) == []

    assert "the store is encrypted" in refuses_to_start(server)
    assert "encrypted with the key of fingerprint" in refuses_to_start(server, "--encryption-key-file", second)
    first.chmod(0o644)
    assert "chmod 600" in refuses_to_start(server, "--encryption-key-file", first)
    first.chmod(0o600)
    inside = key_file(server.data_dir, "key", "1")
    assert "keep it elsewhere" in refuses_to_start(server, "--encryption-key-file", inside)
    inside.unlink()

    # A command gives the same key; then a new key takes over, and is enough from then on.
    for arguments in [
        ["--encryption-key-command", f"cat {first}"],
        ["--encryption-key-file", str(second), "--encryption-old-key-file", str(first)],
        ["--encryption-key-file", str(second)],
    ]:
        server.arguments = arguments
        server.start()
        item = server.client("dynamodb").get_item(TableName=table, Key={"pk": {"S": "a"}})["Item"]
        assert item["text"] == {"S": secret}
        assert invoke(server, name)["json"] == "kept"
        assert server.stop() == 0
    assert "encrypted with the key of fingerprint" in refuses_to_start(server, "--encryption-key-file", first)

    # The backup is as it was made: with the first key.
    assert alone("restore", place / "backups", "--data-dir", place / "data").returncode == 0
    server.data_dir, server.arguments = place / "data", ["--encryption-key-file", str(first)]
    server.start()
    assert keys_of(server, table) == {"a"}
    assert invoke(server, name)["json"] == "kept"


def test_a_store_becomes_encrypted_and_clear_again(own_server, place):
    secret = "very-secret-" + name_of()
    key = key_file(place, "key", "3")
    server = own_server("dev")
    table = make(server)
    put(server, table, "a", secret)
    server.stop()
    assert holds(server.data_dir / "store", secret)
    assert "the store holds values in clear" in refuses_to_start(server, "--encryption-key-file", key)
    done = alone("migrate", "--from", server.data_dir, "--to", place / "secret", "--to-key-file", key)
    assert done.returncode == 0, done.stderr
    assert holds(place / "secret", secret) == []
    done = alone("migrate", "--from", place / "secret", "--to", place / "other", "--to-key-file", key)
    assert done.returncode == 1 and "--from-key-file" in done.stderr
    done = alone("migrate", "--from", place / "secret", "--to", place / "clear", "--from-key-file", key)
    assert done.returncode == 0, done.stderr
    assert holds(place / "clear" / "store", secret)
    again = restored(own_server, "dev", place / "clear")
    assert keys_of(again, table) == {"a"}


def test_a_bucket_is_refused_where_its_engine_is_not_built_in(own_server):
    server = own_server("dev")
    server.stop()
    assert "a place for blobs is s3://BUCKET" in refuses_to_start(server, "--blobs", "/somewhere")
    assert "built without the engine for buckets" in refuses_to_start(server, "--blobs", "s3://bucket/prefix")
