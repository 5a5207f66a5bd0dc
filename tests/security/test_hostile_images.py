"""Images that mean no good: what leaves the root, what is too large, what is not what it says; each beside a control.

Start reading at `REFUSED`. The tools are those of `sdk/test_images.py`.
"""

import gzip
import io
import json
import os
import pathlib
import tarfile
import uuid

import botocore.exceptions
import pytest

from chaos.servers import PRIVILEGES, ROLE, server_of
from image_tools import Image, Registry, base, digest, entry, folder, hardlink, layer, packed, symlink


@pytest.fixture(scope="module")
def registry():
    found = Registry()
    yield found
    found.close()


@pytest.fixture(scope="module", params=PRIVILEGES)
def platform(request, registry, tmp_path_factory):
    """A production server as root and as an ordinary user, with the registry's password."""
    server = server_of(request.param, mode="up", args=("--allow-registry", registry.host))
    config = registry.config_file(server.folder / "registries.json")
    config.chmod(0o644)
    server.args += ["--registry-config", str(config)]
    with server:
        yield server.start()


def name_of(prefix):
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def refused(call, **arguments):
    """Status, code and message of a refusal."""
    with pytest.raises(botocore.exceptions.ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"], answer["Error"]["Message"]


def create(platform, uri):
    return refused(
        platform.client("lambda").create_function,
        FunctionName=name_of("evil"), PackageType="Image", Code={"ImageUri": uri}, Role=ROLE,
    )


def bomb():
    """A layer of 11 GiB in a few megabytes, made without holding it."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as packed:
        info = entry("zeros")[0]
        info.size = 7 * 1024**3
        packed.write(info.tobuf(tarfile.GNU_FORMAT))
        zeros = bytes(1 << 20)
        for _ in range(11 * 1024):
            packed.write(zeros)
    return out.getvalue()


REFUSED = {
    "climbs": ([entry("../escaped", b"x")], "outside of the image"),
    "climbs later": ([folder("a"), entry("a/../../escaped", b"x")], "outside of the image"),
    "climbs in a folder": ([folder("../escaped/")], "outside of the image"),
    "climbs by a whiteout": ([entry("../.wh.escaped")], "outside of the image"),
    "a whiteout of what is above": ([entry("a/.wh...")], "outside of the image"),
    "a hard link out": ([hardlink("shadow", "../../../../etc/shadow")], "outside of the image"),
    "a path too deep": ([folder("/".join("d" * 120))], "too long or too deep"),
    "a name too long": ([entry("n" * 300, b"x")], "too long or too deep"),
    "below a whiteout": ([entry(".wh.a/b", b"x")], "below a whiteout"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_leaves_the_image_is_refused(platform, registry, case):
    entries, words = REFUSED[case]
    before = {path.name for path in platform.folder.iterdir()}
    status, code, message = create(platform, registry.put(Image(layer(*entries)), name_of("evil")))
    assert (status, code) == (400, "InvalidParameterValueException") and words in message, message
    assert not [path for path in platform.folder.rglob("*escaped*")] and {path.name for path in platform.folder.iterdir()} == before


def deployed(platform, uri):
    name = name_of("evil")
    platform.client("lambda").create_function(
        FunctionName=name, PackageType="Image", Code={"ImageUri": uri}, Role=ROLE, Timeout=20, MemorySize=256
    )

    def ask(word, path=""):
        answer = platform.client("lambda").invoke(FunctionName=name, Payload=json.dumps(f"{word} {path}".strip()))
        return json.loads(answer["Payload"].read())

    return ask


def test_absolute_paths_and_links_stay_in_the_image(platform, registry):
    marker = pathlib.Path("/tmp") / name_of("marker")
    evil = layer(
        entry(str(marker), b"x"), symlink("esc", str(platform.folder)), entry("esc/planted", b"x"),
        symlink("climb", "../" * 30 + str(platform.folder).lstrip("/")), entry("climb/planted2", b"x"),
        symlink("passwd", "/etc/passwd"), symlink("host", "/proc/1/root"),
        entry("dev/mem", kind=tarfile.CHRTYPE, mode=0o666, devmajor=1, devminor=1),
        entry("disk", kind=tarfile.BLKTYPE, mode=0o666, devmajor=8, devminor=0), entry("pipe", kind=tarfile.FIFOTYPE),
        entry("bin/su", b"x", 0o6755), folder("bin", 0o7777),
    )
    image = Image(base(), evil)
    ask = deployed(platform, registry.put(image, name_of("links")))
    assert ask("line") == "/bin/guest|"
    assert not marker.exists()
    assert not (platform.folder / "planted").exists() and not (platform.folder / "planted2").exists()
    # Where links led, the image has it.
    inside = platform.data / "code" / image.digest.removeprefix("sha256:") / str(platform.folder)[1:]
    assert sorted(path.name for path in inside.iterdir()) == ["planted", "planted2"]
    assert ask("read", "/passwd") == "No such file or directory"
    for path in ("/dev/mem", "/disk", "/pipe"):
        assert ask("stat", path) == "No such file or directory", path
    assert ask("stat", "/bin/su") == "100755" and ask("stat", "/bin") == "40777"
    assert ask("mknod", "/tmp/null") == "Operation not permitted"
    first, effective = ask("ids").split()
    assert first == effective != "0"
    assert not {"data", "home", "root"} & set(ask("list", "/host").split()) or ask("list", "/host") == ask("list", "/")


@pytest.mark.parametrize("entries, words", [
    ([symlink("a", "b"), symlink("b", "a"), entry("a/x", b"x")], "too many links"),
    ([entry("a", b"x"), entry("a/x", b"x")], "below a file"),
    ([hardlink("a", "none")], "not there"),
])
def test_layers_that_do_not_fit_are_an_error_of_the_call(platform, registry, entries, words):
    name = name_of("unfit")
    client = platform.client("lambda")
    uri = registry.put(Image(base(), layer(*entries)), name_of("unfit"))
    client.create_function(FunctionName=name, PackageType="Image", Code={"ImageUri": uri}, Role=ROLE)
    status, code, message = refused(client.invoke, FunctionName=name, Payload=b"{}")
    assert (status, code) == (409, "ResourceConflictException") and words in message, message


def test_wrong_digests_are_refused(platform, registry):
    good = Image(base(entry("own", name_of("own").encode())))
    uri = registry.put(good, name_of("good"))
    blob = digest(good.blobs[0])
    for spoilt in (packed(base(entry("more", b"x"))), good.blobs[0][:-20], good.blobs[0] + b"\0" * 512, b""):
        registry.blobs[blob] = spoilt
        status, code, message = create(platform, uri)
        assert (status, code) == (400, "InvalidParameterValueException"), message
        assert "digest" in message or "longer than" in message, message
    registry.blobs[blob] = good.blobs[0]
    other = Image(base(entry("own", name_of("own").encode())))
    other.config["rootfs"]["diff_ids"] = [digest(b"other")]
    assert "unpacks to another digest" in create(platform, registry.put(other, name_of("diff")))[2]
    registry.blobs[digest(good.config_bytes)] = good.config_bytes.replace(b"/bin/guest", b"/bin/other")
    assert "digest" in create(platform, uri)[2]
    registry.put(good, name_of("again"))
    assert deployed(platform, uri)("line") == "/bin/guest|"


@pytest.mark.skipif(not os.environ.get("DUNLIN_BOMB"), reason="half a minute of decompression: with DUNLIN_BOMB, in `make prove`")
def test_what_unpacks_to_too_much_is_refused(platform, registry):
    image = Image(b"")
    image.blobs = [bomb()]
    image.config["rootfs"]["diff_ids"] = [digest(b"")]
    assert len(image.blobs[0]) < 80_000_000
    free = os.statvfs(platform.folder).f_bavail
    status, _, message = create(platform, registry.put(image, name_of("bomb")))
    assert status == 400 and "more than 10737418240 bytes" in message, message
    block = os.statvfs(platform.folder)
    assert (free - block.f_bavail) * block.f_frsize < 1024**3, "nothing of it was unpacked"


def test_registries_that_are_not_opened_are_not_asked(platform, registry):
    inner = Registry()
    try:
        for host in (inner.host, inner.host.replace("127.0.0.1", "localhost"), "169.254.169.254", "10.0.0.1:5000", "[::1]:1"):
            status, _, message = create(platform, f"{host}/a/b:c")
            assert status == 400 and "may not be reached" in message, message
        assert inner.asked == []
    finally:
        inner.close()
