"""Functions from container images: pulled from a registry with tokens, pushed from files, run without an engine."""

import tarfile

import pytest
import requests

from conftest import ROLE, Server, name_of, refused, wait_for
from image_tools import GUEST, Image, Registry, base, entry, folder, guest, hardlink, layer, symlink
from test_deploy import dunlin, project
from test_invoke import invoke

# Everybody's mode bits are looked at only where a sandbox has an id of its own.
DENIED = ("Permission denied", "Read-only file system")


@pytest.fixture(scope="session")
def registry():
    found = Registry()
    yield found
    found.close()


def started(mode, registry, tmp_path_factory):
    config = registry.config_file(tmp_path_factory.mktemp("registry") / "config.json")
    config.chmod(0o644)
    more = ("--allow-registry", registry.host) if mode == "up" else ()
    return Server(mode, "--registry-config", str(config), *more)


@pytest.fixture(scope="session", params=["dev", "up"])
def platform(request, registry, tmp_path_factory):
    """A server of each kind that has the registry's password."""
    server = started(request.param, registry, tmp_path_factory)
    yield server
    server.remove()


def deployed(server, uri, **settings):
    """A function of an image, and a way to ask its guest."""
    settings.setdefault("FunctionName", name_of("image"))
    made = server.client("lambda").create_function(
        PackageType="Image", Code={"ImageUri": uri}, Role=ROLE, Timeout=20, MemorySize=256, **settings
    )
    name = made["FunctionName"]

    def ask(word, path=""):
        answer = invoke(server, name, f"{word} {path}".strip())
        assert "FunctionError" not in answer, answer["json"]
        return answer["json"]

    return name, ask


def test_create_invoke_update_get(platform, registry):
    one = Image(base(folder("work"), entry("work/own", b"one")), Cmd=["app.handler", "x"], WorkingDir="/work", Env=["AA=image", "BB=image", "PATH=/none"])
    uri = registry.put(one, name_of("one"))
    client = platform.client("lambda")
    name, ask = deployed(platform, uri, Environment={"Variables": {"BB": "user"}})
    client.get_waiter("function_active_v2").wait(FunctionName=name)
    got = client.get_function(FunctionName=name)
    assert got["Code"] == {
        "RepositoryType": "ECR", "ImageUri": uri, "ResolvedImageUri": f"{registry.host}/team/app@{one.digest}",
    }
    shown = got["Configuration"]
    assert (shown["PackageType"], shown["CodeSize"], shown["State"]) == ("Image", 0, "Active")
    assert shown["CodeSha256"] == one.digest.removeprefix("sha256:")
    assert not {"Runtime", "Handler", "ImageConfigResponse"} & set(shown)
    assert ask("line") == "/bin/guest|app.handler|x|"
    assert (ask("cwd"), ask("read", "own")) == ("/work", "one")
    environment = {name: ask("env", name) for name in ("AA", "BB", "PATH", "AWS_REGION", "AWS_LAMBDA_FUNCTION_NAME")}
    assert environment == {
        "AA": "image", "BB": "user", "PATH": "/none", "AWS_REGION": "us-east-1", "AWS_LAMBDA_FUNCTION_NAME": name,
    }
    assert ask("env", "AWS_ENDPOINT_URL").startswith("http") and ask("env", "AWS_ACCESS_KEY_ID") != "(none)"
    two = Image(one.plain[0], layer(entry("work/own", b"two")), Cmd=["z"], WorkingDir="work")
    updated = client.update_function_code(FunctionName=name, ImageUri=registry.put(two, name_of("two")))
    assert (updated["LastUpdateStatus"], updated["CodeSha256"]) == ("Successful", two.digest.removeprefix("sha256:"))
    assert (ask("line"), ask("cwd"), ask("read", "own")) == ("/bin/guest|z|", "/work", "two")
    assert registry.layers_asked(one) <= 2, "a layer is pulled once for each platform"
    config = {"EntryPoint": ["guest", "first"], "Command": ["second"], "WorkingDirectory": "/"}
    updated = client.update_function_configuration(
        FunctionName=name, ImageConfig=config, Environment={"Variables": {"PATH": "/none:/bin"}}
    )
    assert updated["ImageConfigResponse"]["ImageConfig"] == config
    assert (ask("line"), ask("cwd"), ask("env", "AA")) == ("guest|first|second|", "/", "(none)")
    assert ask("env", "_HANDLER") == "second", "the handler is what the command says first"
    version = client.publish_version(FunctionName=name)["Version"]
    client.update_function_code(FunctionName=name, ImageUri=uri)
    assert invoke(platform, f"{name}:{version}", "line")["json"] == "guest|first|second|"
    client.delete_function(FunctionName=name)


def test_an_image_that_is_a_web_server(platform, registry):
    server = guest(GUEST.with_name("web.c"))
    env = ["PORT=3000", "OWN=image"]
    uri = registry.put(Image(layer(folder("bin"), entry("bin/web", server, 0o755)), Entrypoint=["/bin/web", "arg"], Env=env), name_of("web"))
    client = platform.client("lambda")
    for variables in ({"DUNLIN_WEB_CONCURRENCY": "20"}, {"AWS_LWA_READINESS_CHECK_PROTOCOL": "tcp"}):
        name, _ = deployed(platform, uri, Environment={"Variables": variables})
        url = platform.function_url(name)
        for path in ("a", "b?c"):
            assert requests.get(url + path, timeout=40).text == f"GET /{path} HTTP/1.1|arg|image"
        event = {"version": "2.0", "rawPath": "/e", "requestContext": {"http": {"method": "PUT"}}}
        assert invoke(platform, name, event)["json"]["body"] == "PUT /e HTTP/1.1|arg|image"
        client.update_function_configuration(FunctionName=name, Description="other")
        assert requests.get(url, timeout=40).status_code == 200
        logs = platform.client("logs")
        said = lambda: [event["message"] for event in logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]]
        wait_for(lambda: any("asked to stop" in line for line in said()), "an end in order")
    got = refused(
        client.create_function, FunctionName=name_of(), PackageType="Image", Code={"ImageUri": uri}, Role=ROLE,
        Environment={"Variables": {"DUNLIN_WEB_COMMAND": "x"}},
    )
    assert got[:2] == (400, "InvalidParameterValueException") and "the image's own to say" in got[2], got


def test_what_cannot_be_run_is_an_error_of_the_function(platform, registry):
    image = Image(base(entry("bin/data", b"no program", 0o755), entry("bin/closed", b"x", 0o644)))
    uri = registry.put(image, name_of("odd"))
    for config, kind, words in [
        ({"EntryPoint": ["/bin/none"]}, "Runtime.InvalidEntrypoint", "fork/exec /bin/none: no such file or directory"),
        ({"EntryPoint": ["/bin/data"]}, "Runtime.InvalidEntrypoint", "fork/exec /bin/data: exec format error"),
        ({"EntryPoint": ["/bin/closed"]}, "Runtime.InvalidEntrypoint", "fork/exec /bin/closed: permission denied"),
        ({"EntryPoint": ["none"]}, "Runtime.InvalidEntrypoint", "fork/exec none: no such file or directory"),
        ({"WorkingDirectory": "/none"}, "Runtime.InvalidWorkingDir", "chdir /none: no such file or directory"),
        ({"EntryPoint": ["/bin/guest"], "Command": ["x"]}, None, ""),
    ]:
        name = name_of("odd")
        platform.client("lambda").create_function(
            FunctionName=name, PackageType="Image", Code={"ImageUri": uri}, Role=ROLE, ImageConfig=config
        )
        answer = invoke(platform, name, "line")
        assert answer["json"] == "/bin/guest|x|" if kind is None else answer["json"]["errorType"] == kind, answer["json"]
        assert kind is None or answer["json"]["errorMessage"].endswith(words), answer["json"]
    name, _ = deployed(platform, registry.put(Image(base(), Entrypoint=[]), name_of("bare")))
    error = invoke(platform, name, "line")["json"]
    assert error["errorType"] == "Runtime.InvalidEntrypoint", error
    assert error["errorMessage"].endswith("neither it nor the function has an ENTRYPOINT or a CMD"), error


def test_layers_make_the_root_and_the_platform_adds_its_own(platform, registry):
    lower = base(
        folder("gone"), entry("gone/x", b"1"), folder("hidden"), entry("hidden/old", b"1"), symlink("lib", "usr/lib"),
        folder("usr/lib"), entry("etc/hosts", b"image"), symlink("etc/resolv.conf", "/elsewhere"), symlink("tmp", "/var/tmp"),
        folder("etc/ssl/certs"), entry("etc/ssl/certs/ca-certificates.crt", b"image"),
    )
    upper = layer(
        entry(".wh.gone"), entry("hidden/new", b"2"), entry("hidden/.wh..wh..opq"), entry("lib/through", b"3"),
        hardlink("again", "hidden/new"), symlink("out", "/etc/hosts"), symlink("up", "../../../../etc/hosts"),
    )
    _, ask = deployed(platform, registry.put(Image(lower, upper), name_of("root")))
    assert "gone" not in ask("list", "/") and ask("list", "/hidden").split() == ["new"]
    assert (ask("read", "/usr/lib/through"), ask("read", "/again")) == ("3", "2")
    for path in ("/etc/hosts", "/out", "/up"):
        assert ask("read", path).startswith("127.0.0.1 localhost"), path
    assert ask("read", "/etc/resolv.conf").startswith("nameserver 127.0.0.1")
    assert "BEGIN CERTIFICATE" in ask("read", "/etc/ssl/certs/ca-certificates.crt")
    assert ask("write", "/tmp/x") == "written" and ask("write", "/dev/null") == "written"
    assert ask("stat", "/dev/null").startswith("20") and ask("read", "/proc/self/comm").startswith("guest")
    for path in ("/x", "/hidden/new", "/etc/hosts", "/proc/sys/kernel/hostname"):
        assert ask("write", path) in DENIED, path
    assert ask("unlink", "/hidden/new") in DENIED and ask("chmod", "/hidden/new") in (*DENIED, "Operation not permitted")


def test_names_that_mean_nothing(platform, registry):
    create = platform.client("lambda").create_function
    arguments = {"FunctionName": name_of("none"), "PackageType": "Image", "Role": ROLE}
    uri = f"{registry.host}/team/app:{name_of('none')}"
    status, code, message = refused(create, Code={"ImageUri": uri}, **arguments)
    assert (status, code) == (400, "InvalidParameterValueException")
    assert message == f"Source image {uri} does not exist. Provide a valid source image."
    other = Registry()
    try:
        uri = other.put(Image(layer()), "one")
        status, code, message = refused(create, Code={"ImageUri": uri}, **arguments)
        if platform.mode == "up":
            assert (status, code) == (400, "InvalidParameterValueException") and "--allow-registry" in message
            assert other.asked == [], "what is not opened is not asked"
        else:
            assert (status, code) == (403, "AccessDeniedException")
            assert message.startswith("Lambda does not have permission to access the ECR image. Check the ECR permissions.")
    finally:
        other.close()


def test_a_new_token_is_asked_for(platform, registry):
    registry.token = name_of("token")
    deployed(platform, registry.put(Image(base()), name_of("token")))[1]("line")


@pytest.mark.parametrize("form", ["save", "layout", "packed"])
def test_images_from_files(server, tmp_path, form):
    tag = name_of(form)
    image = Image(base(entry("form", form.encode())), Cmd=[form])
    path = tmp_path / "image"
    if form == "save":
        image.save(path)
    else:
        image.layout(path)
    if form == "packed":
        with tarfile.open(tmp_path / "packed.tar", "w") as archive:
            archive.add(path, ".")
        path = tmp_path / "packed.tar"
    pushed = dunlin(server, "images", "push", f"own/app:{tag}", path)
    assert (pushed.code, pushed.out.strip()) == (0, f"own/app:{tag}"), pushed.err
    assert f"own/app:{tag}" in dunlin(server, "images").out
    name, ask = deployed(server, f"own/app:{tag}")
    assert (ask("read", "/form"), ask("line")) == (form, f"/bin/guest|{form}|")
    removed = dunlin(server, "images", "remove", f"own/app:{tag}")
    assert removed.code == 0, removed.err
    assert ask("line") and server.client("lambda").get_function(FunctionName=name)
    status, _, message = refused(
        server.client("lambda").update_function_code, FunctionName=name, ImageUri=f"own/app:{tag}"
    )
    assert status == 400 and "does not exist" in message


@pytest.mark.modes("dev")
def test_deploy_of_an_image(server, tmp_path):
    tag = name_of("deployed")
    image = Image(base())
    assert dunlin(server, "images", "push", f"own/app:{tag}", image.save(tmp_path / "image.tar")).code == 0
    service = name_of("img")
    yaml = f"functions:\n  f:\n    image:\n      uri: own/app:{tag}\n      command: [one]\n"
    app = project(tmp_path / service, serverless__yml=f"service: {service}\nprovider: {{name: aws}}\n{yaml}")
    first = dunlin(server, "deploy", "--json", app)
    assert first.code == 0, first.err
    assert invoke(server, f"{service}-dev-f", "line")["json"] == "/bin/guest|one|"
    again = dunlin(server, "deploy", "--json", app).json
    assert again["changed"] is False, again
    (app / "serverless.yml").write_text((app / "serverless.yml").read_text().replace("[one]", "[two]"))
    assert dunlin(server, "deploy", "--json", app).json["changed"] is True
    assert invoke(server, f"{service}-dev-f", "line")["json"] == "/bin/guest|two|"
    other = Image(base(entry("other", b"1")))
    assert dunlin(server, "images", "push", f"own/app:{tag}", other.save(tmp_path / "other.tar")).code == 0
    again = dunlin(server, "deploy", "--json", app)
    assert again.json["changed"] is True, "the name means another image now"
    assert invoke(server, f"{service}-dev-f", "read /other")["json"] == "1"


def test_images_survive_a_restart(own_server, tmp_path):
    server = own_server("dev")
    image = Image(base())
    assert dunlin(server, "images", "push", "own/app:v1", image.save(tmp_path / "image.tar")).code == 0
    name, ask = deployed(server, "own/app:v1")
    assert ask("line") == "/bin/guest|"
    server.process.kill()
    server.process.wait()
    server.start()
    assert invoke(server, name, "line")["json"] == "/bin/guest|"
    assert "own/app:v1" in dunlin(server, "images").out
    root = server.client("lambda").get_function(FunctionName=name)["Configuration"]["CodeSha256"]
    assert (server.data_dir / "code" / root / "bin/guest").exists()
