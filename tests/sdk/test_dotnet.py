"""A .NET program as a `provided.*` bundle: a folder that holds the whole runtime and a `bootstrap`, as `dotnet publish
--self-contained` makes it. There is no SDK in the registries that the tests use: the runtime is that of a Python package,
the compiler that of Mono, so that what `dotnet` itself would make is not tested."""

import concurrent.futures
import json
import shutil
import subprocess

import pytest

from conftest import ROOT, refused, wait_for
from test_invoke import invoke, tail

RUNTIME = ROOT / ".cache/dotnet/dotnetcore2/bin"

pytestmark = [
    pytest.mark.skipif(not (RUNTIME.is_dir() and shutil.which("mcs")), reason=".NET is not there (tests/install.sh says why)"),
    # The package has 78 MB: it is made once.
    pytest.mark.xdist_group("dotnet"),
]
LIBRARIES = [
    "System.Private.CoreLib", "System.Private.Uri", "System.Runtime", "System.Runtime.Extensions", "System.Console", "System.Collections",
    "System.Memory", "System.Net.Http", "System.Net.Primitives", "System.Text.Json", "System.Threading", "System.Threading.Thread",
]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The files of the package."""
    [shared] = (RUNTIME / "shared/Microsoft.NETCore.App").iterdir()
    made = tmp_path_factory.mktemp("dotnet") / "bootstrap.dll"
    references = [f"-r:{shared / name}.dll" for name in LIBRARIES]
    command = ["mcs", "-nostdlib", "-noconfig", "-nologo", "-warn:0", f"-out:{made}", *references, ROOT / "tests/dotnet/Bootstrap.cs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    config = {"framework": {"name": "Microsoft.NETCore.App", "version": shared.name}, "configProperties": {"System.Globalization.Invariant": True}}
    files = {f"runtime/{path.relative_to(RUNTIME)}": (path.read_bytes(), 0o755) for path in RUNTIME.rglob("*") if path.is_file() and path.suffix != ".txt"}
    files["bootstrap.dll"] = made.read_bytes()
    files["bootstrap.runtimeconfig.json"] = json.dumps({"runtimeOptions": config})
    files["bootstrap"] = ("#!/bin/sh\nexec /var/task/runtime/dotnet /var/task/bootstrap.dll\n", 0o755)
    return files


def create(server, package, **settings):
    """A function of the package."""
    return server.function(package, **({"runtime": "provided.al2023", "handler": "bootstrap", "MemorySize": 512, "Timeout": 20} | settings))


def test_a_bundle(dev, package):
    name = create(dev, package)
    got = invoke(dev, name, {"a": "ü☃", "b": [1, None]}, LogType="Tail")
    assert got["json"]["event"] == {"a": "ü☃", "b": [1, None]}, got["json"]
    assert got["json"]["id"] == got["ResponseMetadata"]["RequestId"] and got["json"]["name"] == name
    assert got["json"]["version"].startswith("3.1.") and "call 1\n" in tail(got)
    got = invoke(dev, name, {"do": "throw"})
    assert (got["FunctionError"], got["json"]) == ("Unhandled", {"errorType": "ArgumentException", "errorMessage": "bad ü"})
    # It goes on.
    wait_for(lambda: invoke(dev, name, {})["json"]["calls"] > 1, "a second call of an environment")
    got = invoke(dev, name, {"do": "exit"})
    assert got["json"]["errorType"] == "Runtime.ExitError" and "exit status 3" in got["json"]["errorMessage"]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda index: invoke(dev, name, {"i": index})["json"]["event"], range(12)))
    assert answers == [{"i": index} for index in range(12)]


def test_its_limits_and_its_init(dev, package):
    name = create(dev, package, Timeout=5, MemorySize=256)
    assert "timed out after 5.00 seconds" in invoke(dev, name, {"do": "sleep"})["json"]["errorMessage"]
    assert invoke(dev, name, {"do": "fill"})["json"]["errorType"] in ("Runtime.ExitError", "OutOfMemoryException")
    got = invoke(dev, create(dev, package, handler="broken"), {})
    assert got["json"]["errorType"] == "InvalidOperationException" and got["json"]["errorMessage"] == "no such handler"


def test_managed_runtimes_say_what_to_do(dev):
    for runtime in ("dotnet6", "dotnet8", "dotnet10"):
        got = refused(dev.function, files={"a.dll": "1"}, runtime=runtime, handler="A::B.C::D")
        assert got[:2] == (501, "NotImplementedException")
        assert "publish -r linux-x64 --self-contained" in got[2] and "provided.al2023" in got[2], got
