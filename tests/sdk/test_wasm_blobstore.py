"""`wasi:blobstore` by a program in Rust: containers are buckets of S3, here of moto's on loopback."""

import time

import boto3
import pytest

from behaviour.wasm import component, without_target
from conftest import ROOT, name_of, wait_for
from s3_double import is_signed_with, serving
from test_invoke import invoke, tail
from test_wasm import compiled, deploy

pytestmark = pytest.mark.xdist_group("blobstore")
MIB = 1 << 20
REGION = "us-east-1"


@pytest.fixture(scope="module")
def program():
    if reason := without_target():
        pytest.skip(reason)
    return component(ROOT / "tests/programs/blobstore", "blobstore")


@pytest.fixture(scope="module")
def double():
    with serving() as double:
        yield double


@pytest.fixture(scope="module")
def s3(double):
    """An SDK's client of the same objects."""
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return boto3.client("s3", endpoint_url=double.url, region_name=REGION, **keys)


@pytest.fixture(scope="module")
def function(dev, double, program):
    """A function that is allowed to reach the double, and told of it."""
    where = f"host.dunlin.internal:{double.port}"
    return made(dev, program, Tags={"dunlin:egress": where}, Environment={"Variables": {"AWS_ENDPOINT_URL_S3": f"http://{where}"}})


def made(server, program, **settings):
    name = deploy(server, program, wait=False, MemorySize=128, Timeout=60, **settings)
    assert compiled(server, name, 120)["LastUpdateStatus"] == "Successful"
    return name


@pytest.fixture
def do(dev, function):
    """Runs steps in a fresh instance; what came of each."""
    return lambda *steps: invoke(dev, function, "|".join(steps))["json"]


@pytest.fixture
def bucket(s3):
    """An empty one."""
    name = name_of("bucket").lower()
    s3.create_bucket(Bucket=name)
    return name


def code(answer):
    """The code of an error."""
    assert answer.startswith("error: "), answer
    return answer.split(": ")[1]


def test_containers_are_buckets(do, s3):
    name = name_of("made").lower()
    assert do(f"there {name}", f"open {name}", f"make {name}", f"there {name}", f"open {name}") == [
        "false", f"error: NoSuchBucket: there is no container {name}", name, "true", name]
    assert name in [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
    # Each over a line that moto ends after its answer.
    _, *seen = do(f"open {name}", *["info"] * 30)
    assert len(set(seen)) == 1, seen
    shown, at = seen[0].split()
    assert shown == name and abs(int(at) - time.time()) < 600
    s3.put_object(Bucket=name, Key="a/b", Body=b"1")
    # With all that is in it.
    assert do(f"drop {name}", f"there {name}") == ["done", "false"]
    assert code(do(f"drop {name}")[0]) == "NoSuchBucket"
    assert code(do("make ab")[0]) == "InvalidBucketName"


def test_objects(do, bucket, s3):
    assert do(f"open {bucket}", "has a", "read a", "about a", "write a one", "has a", "read a", "write a two", "read a") == [
        bucket, "false", "error: NoSuchKey: The specified key does not exist.",
        f"error: NoSuchKey: there is no object a in {bucket}", "done", "true", "one", "done", "two"]
    assert s3.get_object(Bucket=bucket, Key="a")["Body"].read() == b"two"
    head = s3.head_object(Bucket=bucket, Key="a")
    assert do(f"open {bucket}", "about a")[1] == f"{bucket} a 3 {int(head['LastModified'].timestamp())}"
    assert do(f"open {bucket}", "write-first b three", "read b", "write-nothing c", "read c", "range c 0 5", "about c")[1:6] == [
        "done", "three", "done", "", ""]
    assert do(f"open {bucket}", "delete a", "delete a", "has a") == [bucket, "done", "done", "false"]
    assert do(f"open {bucket}", "unaimed", "write-twice x y", "has x") == [
        bucket, "error: write-data has not said to which object the value is to be written",
        f"error: the value is being written to x in {bucket} already", "false"]


def test_ranges_have_both_their_ends(do, bucket):
    assert do(f"open {bucket}", "write a 0123456789", "range a 0 0", "range a 3 5", "range a 8 100", "range a 5 4")[2:] == [
        "0", "345", "89", "error: the range ends at 4, before it begins at 5"]
    assert code(do(f"open {bucket}", "range a 10 12")[1]) == "InvalidRange"


def test_names_are_what_they_are(do, bucket, s3):
    names = ["a+b%20?c&d", "<e>'f", "../g", "h//i", "j/.", "k=l;m,n:o@p$q!r*s(t)"]
    assert do(f"open {bucket}", *(f"write {name} {index}" for index, name in enumerate(names)))[1:] == ["done"] * len(names)
    listed = sorted(entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"])
    assert listed == sorted(names)
    assert do(f"open {bucket}", *(f"read {name}" for name in names))[1:] == [str(index) for index in range(len(names))]
    assert sorted(do(f"open {bucket}", "list 10")[1].split()) == sorted(names)
    assert do(f"open {bucket}", "delete-all " + " ".join(names), "list 10") == [bucket, "done", ""]
    # An empty name is no bucket's.
    assert do(f"open {bucket}", "delete ", "has ", f"there {bucket}") == [
        bucket, *["error: the name of an object cannot be empty"] * 2, "true"]


def test_copies(do, bucket, s3):
    other = name_of("other").lower()
    s3.create_bucket(Bucket=other)
    steps = [f"open {bucket}", "write a+b%20c one", f"copy {bucket}/a+b%20c {other}/d", f"move {bucket}/a+b%20c {bucket}/e/f",
             "has a+b%20c", "read e/f", f"copy {bucket}/e/f {bucket}/e/f", f"move {bucket}/e/f {bucket}/e/f", "read e/f"]
    assert do(*steps)[2:] == ["done", "done", "false", "one", "done", "done", "one"]
    assert s3.get_object(Bucket=other, Key="d")["Body"].read() == b"one"
    missing = do(f"copy {bucket}/none {other}/x", f"move {bucket}/none {other}/x", f"copy {bucket}/none {bucket}/none")
    assert [code(answer) for answer in missing] == ["NoSuchKey"] * 3


def test_names_come_by_pages(do, double, bucket, s3):
    names = [f"name-{index:04}" for index in range(1250)]
    double.fill(bucket, names)
    assert do(f"open {bucket}", "list 700", "list 5000", "skip 1100", "skip 1250", "skip 9999") == [
        bucket, " ".join(names), " ".join(names), "1100 false name-1100 name-1101", "1250 true ", "1250 true "]
    assert do(f"open {bucket}", "clear", "list 10", "clear") == [bucket, "done", "", "done"]
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)


def test_large_objects_pass_through(do, dev, function, bucket, s3):
    bytes = 63 * MIB + 11
    assert do(f"open {bucket}", f"write-large big {bytes}", "read-large big", "read big") == [
        bucket, "done", str(bytes), f"error: the object has {bytes} bytes; what has more than {16 * MIB} is read as a stream"]
    head = s3.head_object(Bucket=bucket, Key="big")
    assert (head["ContentLength"], head["ETag"].strip('"').split("-")[1]) == (bytes, "13"), "parts of five MiB"
    assert do(f"open {bucket}", f"write-large part {5 * MIB}", "read-large part") == [bucket, "done", str(5 * MIB)]
    assert do(f"open {bucket}", f"write-large-first late {5 * MIB - 1}", "read-large late")[1:] == ["done", str(5 * MIB - 1)]
    [_, answer] = do(f"open {bucket}", f"write-large-first later {6 * MIB}")
    assert "before write-data says to which object" in answer
    assert do(f"open {bucket}", "write a 1", "write b 2", "read-beside a b")[3] == "1 2"


def test_what_is_not_finished_leaves_nothing(do, bucket, s3):
    assert do(f"open {bucket}", "write old before", f"abandon old {12 * MIB}", "read old") == [
        bucket, "done", "abandoned", "before"]
    wait_for(lambda: "Uploads" not in s3.list_multipart_uploads(Bucket=bucket), "the end of the upload in parts")
    # Nor does what breaks off at the other side.
    missing = name_of("gone").lower()
    s3.create_bucket(Bucket=missing)
    answers = do(f"open {missing}", f"drop {missing}", "write a 1", f"write-large a {12 * MIB}")
    assert code(answers[2]) == "NoSuchBucket" and "NoSuchBucket" in answers[3]


def test_what_waits_to_be_sent_is_memory(dev, function, bucket):
    assert invoke(dev, function, f"open {bucket}|hoard 5")["json"] == [bucket, "5"]
    ended = invoke(dev, function, f"open {bucket}|hoard 40", LogType="Tail")
    assert ended["FunctionError"] == "Unhandled" and "Error Type: Runtime.OutOfMemory" in tail(ended)
    assert invoke(dev, function, f"open {bucket}|hoard 5")["json"] == [bucket, "5"]


def test_requests_are_signed_with_the_functions_keys(do, double, bucket):
    double.seen.clear()
    answers = do(f"open {bucket}", "write a+b/c%2f;d=1 text", "read a+b/c%2f;d=1", "list 3", f"write-large e {11 * MIB}",
                 f"copy {bucket}/e {bucket}/f", "clear", "info", "variable AWS_ACCESS_KEY_ID", "variable AWS_SECRET_ACCESS_KEY")
    *_, access_key, secret = answers
    assert {method for method, *_ in double.seen} == {"HEAD", "PUT", "GET", "POST"}
    assert len(double.seen) >= 12
    for request in double.seen:
        assert is_signed_with(request, access_key, secret), request
        assert "x-amz-security-token" in request[2]
        assert not is_signed_with(request, access_key, secret + "x"), "the control"


def test_where_there_are_no_objects(dev, program, double):
    # The platform has no S3, and says so.
    name = made(dev, program)
    [answer] = invoke(dev, name, "there some-bucket")["json"]
    assert answer.startswith("error: "), answer
    # What is not allowed to be reached is not.
    variables = {"AWS_ENDPOINT_URL_S3": f"http://host.dunlin.internal:{double.port}"}
    name = made(dev, program, Environment={"Variables": variables})
    before = len(double.seen)
    [answer] = invoke(dev, name, "there some-bucket")["json"]
    assert answer.startswith("error: ") and len(double.seen) == before
    # What is no place is said in words.
    name = made(dev, program, Environment={"Variables": {"AWS_ENDPOINT_URL_S3": "localhost"}})
    assert invoke(dev, name, "there some-bucket")["json"] == [
        'error: AWS_ENDPOINT_URL_S3 is "localhost", which is no URL of a server (http://host:port)']
