"""Native code that real functions bring: wheels, Node.js addons, programs. All of it runs behind the sandbox's filter of calls.

`tests/install.sh` installs the packages by name; what a registry lacks is skipped, and said.
"""

import io
import zipfile

import pytest

from conftest import NODE, PYTHON, ROLE, ROOT, name_of, wait_for
from test_invoke import invoke

NATIVE = ROOT / ".cache/native"


def packed(folder, files):
    """A package of these files and everything in a folder, quickly: what is compiled hardly shrinks further."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and not {"tests", "dist-types"} & set(path.parts):
                archive.write(path, path.relative_to(folder))
    return out.getvalue()


def function(server, runtime, code):
    """A function with this package, active."""
    name, client = name_of("native"), server.client("lambda")
    client.create_function(
        FunctionName=name, Runtime=runtime, Handler="handler.handler", Role=ROLE, Code={"ZipFile": code}, Timeout=60, MemorySize=1024,
    )
    wait_for(lambda: client.get_function(FunctionName=name)["Configuration"]["State"] == "Active", "an active function")
    return name


def installed(*paths):
    """Skips, loudly, where the set-up could not install something."""
    for path in paths:
        if not (NATIVE / path).exists():
            pytest.skip(f"{path} is not in {NATIVE}: tests/install.sh could not get it from the registry")


PYTHON_HANDLER = """
import io, subprocess, threading
import numpy
from PIL import Image, ImageFilter

def handler(event, context):
    matrix = numpy.arange(250_000, dtype="float64").reshape(500, 500)
    product = matrix @ matrix.T
    singular = numpy.linalg.svd(matrix[:100, :100], compute_uv=False)
    image = Image.new("RGB", (640, 480), "red").filter(ImageFilter.GaussianBlur(3)).resize((64, 48))
    sizes = {}
    for kind in ("PNG", "JPEG", "WEBP"):
        out = io.BytesIO()
        image.save(out, kind)
        sizes[kind] = Image.open(io.BytesIO(out.getvalue())).size
    shell = subprocess.run("echo $((6 * 7)) | tr 4 5; uname -s", shell=True, capture_output=True, text=True, check=True)
    done = []
    threads = [threading.Thread(target=done.append, args=(n,)) for n in range(8)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    return {"trace": float(numpy.trace(product)), "singular": float(singular[0]) > 0, "sizes": sizes, "shell": shell.stdout.split(),
            "threads": sorted(done)}
"""


@pytest.mark.modes("dev")
def test_wheels_and_subprocesses_of_python(server):
    installed("python/numpy", "python/PIL")
    name = function(server, PYTHON, packed(NATIVE / "python", {"handler.py": PYTHON_HANDLER}))
    got = invoke(server, name)["json"]
    assert got["sizes"] == {kind: [64, 48] for kind in ("PNG", "JPEG", "WEBP")}, got
    assert got["trace"] == float(sum(n * n for n in range(250_000))) and got["singular"]
    assert got["shell"] == ["52", "Linux"] and got["threads"] == list(range(8))


NODE_HANDLER = """
const { execFile, spawnSync } = require('child_process');
const { promisify } = require('util');
const { Worker } = require('worker_threads');
exports.handler = async (event) => {
  if (event.sharp) {
    const sharp = require('sharp');
    const input = await sharp({ create: { width: 640, height: 480, channels: 3, background: 'red' } }).png().toBuffer();
    const out = {};
    for (const kind of ['jpeg', 'webp', 'avif', 'png']) {
      const made = await sharp(input).resize(64).blur(2).toFormat(kind).toBuffer();
      out[kind] = (await sharp(made).metadata()).width;
    }
    return out;
  }
  if (event.ffmpeg) {
    const { path } = require('@ffmpeg-installer/ffmpeg');
    const words = ['-loglevel', 'error', '-f', 'lavfi', '-i', 'testsrc=duration=1:size=128x96:rate=10', '-c:v', 'libx264', '-y', '/tmp/a.mp4'];
    await promisify(execFile)(path, words);
    const shown = spawnSync(path, ['-hide_banner', '-i', '/tmp/a.mp4'], { encoding: 'utf8' });
    return { size: require('fs').statSync('/tmp/a.mp4').size, shown: shown.stderr };
  }
  const worker = new Worker('require("worker_threads").parentPort.postMessage(6 * 7)', { eval: true });
  const answer = await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject));
  const child = spawnSync(process.execPath, ['-p', '1 + 1'], { encoding: 'utf8' });
  return { answer, child: child.stdout.trim(), error: child.stderr };
};
"""


@pytest.fixture(scope="module")
def node(dev):
    """One Node.js function with everything native."""
    installed("node/node_modules/sharp")
    return function(dev, NODE, packed(NATIVE / "node", {"handler.js": NODE_HANDLER}))


def test_an_addon_of_node(dev, node):
    got = invoke(dev, node, {"sharp": 1})["json"]
    assert got == {"jpeg": 64, "webp": 64, "avif": 64, "png": 64}, got


def test_a_program_that_a_package_brings(dev, node):
    installed("node/node_modules/@ffmpeg-installer/linux-x64")
    got = invoke(dev, node, {"ffmpeg": 1})["json"]
    assert got.get("size", 0) > 1_000 and "h264" in got["shown"] and "128x96" in got["shown"], got


def test_workers_and_children_of_node(dev, node):
    got = invoke(dev, node, {})["json"]
    assert (got["answer"], got["child"]) == (42, "2"), got


LOADED = """
import os, subprocess

def handler(event, context):
    asked = subprocess.run(["/bin/cat", "/dev/null"], env={**os.environ, "LD_DEBUG": "libs"}, capture_output=True, text=True)
    tried = [line.partition("trying file=")[2] for line in asked.stderr.splitlines()]
    return [path for path in tried if path.endswith("/libc.so.6")]
"""


def test_a_loader_finds_the_systems_libraries_before_those_of_code_and_layers(server):
    tried = invoke(server, server.function(LOADED), {})["json"]
    assert tried[-1] == "/var/lang/lib/libc.so.6", tried
