"""Container images without an engine: one of a single static program, and one of Python with AWS's runtime client for images."""

import functools
import pathlib
import subprocess
import sys
import tempfile

from conftest import ROLE, ROOT, name_of
from image_tools import Image, entry, folder, layer
from test_deploy import dunlin

from . import DATA, Runtime, source
from .custom import Go

CLIENT = ROOT / ".cache/native/awslambdaric"
# What no function needs, and would be copied each time.
BULKY = {"test", "idlelib", "tkinter", "lib2to3", "site-packages", "__pycache__", "ensurepip", "pydoc_data", "turtledemo"}

# As AWS's base images have it; the platform itself says nothing of an image's language.
LANGUAGE = "LANG=en_US.UTF-8"


class Packed(Runtime):
    """What images have in common. The first word of their command is their handler."""

    def image(self):
        """The image itself."""
        raise NotImplementedError

    def pushed(self, server):
        """The image's name on a server; it is brought there once."""
        tags = server.__dict__.setdefault("probe_images", {})
        if self.name not in tags:
            with tempfile.TemporaryDirectory() as folder_name:
                path = self.image().save(pathlib.Path(folder_name) / "image.tar")
                tags[self.name] = f"own/{name_of(self.name)}:v1"
                done = dunlin(server, "images", "push", tags[self.name], path)
            assert done.code == 0, done.err
        return tags[self.name]

    def create(self, server, **settings):
        name = name_of("image")
        settings = {"MemorySize": self.memory, "Timeout": 10} | settings
        server.client("lambda").create_function(
            FunctionName=name, PackageType="Image", Code={"ImageUri": self.pushed(server)}, Role=ROLE, **settings
        )
        return name

    def lost(self, server):
        name = self.create(server, ImageConfig={"EntryPoint": ["/bin/none"]})
        return name, "Runtime.InvalidEntrypoint", "fork/exec /bin/none: no such file or directory"


class GoImage(Packed):
    """One static program, by AWS's client for Go."""

    name = "image-go"
    handler = "probe"
    streaming = {"ImageConfig": {"Command": ["stream"]}}
    error_type, trace = Go.error_type, Go.trace
    init_error_type = Go.init_error_type
    surrogate = Go.surrogate
    missing = Go.missing

    def image(self):
        task = [folder("var"), folder("var/task"), entry("var/task/data.txt", DATA.encode())]
        content = layer(folder("bin"), entry("bin/probe", Go().program(), 0o755), *task)
        return Image(content, Entrypoint=["/bin/probe"], Cmd=["probe"], WorkingDir="/var/task", Env=[LANGUAGE])


def libraries(files):
    """What the dynamic linker would load for these programs: path in the image to file."""
    shown = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    found = {word for line in shown.splitlines() for word in line.split() if word.startswith("/") and not word.endswith(":")}
    return {path.lstrip("/") if "ld-linux" in path else f"python/lib/{pathlib.Path(path).name}": path for path in found}


def tree(files):
    """A layer of files, with the folders above them: path in the image to content and mode."""
    above = {str(parent) for name in files for parent in pathlib.PurePosixPath(name).parents} - {"."}
    return layer(*(folder(name) for name in sorted(above)), *(entry(name, *content) for name, content in files.items()))


@functools.cache
def python_layer():
    """The interpreter of the tests with its library and what both are linked with."""
    prefix = pathlib.Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = (prefix / "bin" / version).resolve()
    library = [path for path in (prefix / "lib" / version).rglob("*") if path.is_file() and not BULKY & set(path.parts)]
    library = [path for path in library if not path.parent.name.startswith("config-") and not path.name.startswith(("_test", "_tkinter"))]
    files = {f"python/{path.relative_to(prefix)}": (path.read_bytes(), 0o644) for path in library}
    files[f"python/bin/{version}"] = (program.read_bytes(), 0o755)
    native = [str(program), *(str(path) for path in [*library, *CLIENT.glob("*.so")] if path.suffix == ".so")]
    files |= {name: (pathlib.Path(path).read_bytes(), 0o755) for name, path in libraries(native).items()}
    return tree(files), f"/python/bin/{version}"


class PythonImage(Packed):
    """AWS's runtime client for images, over the Runtime API."""

    name = "image-python"
    handler = "probe.handler"
    # Files beside its own: path in the image to content and mode.
    beside = {}

    def missing(self):
        return None if CLIENT.is_dir() else f"{CLIENT} is not there: tests/install.sh could not get it from the registry"

    def image(self):
        base, program = python_layer()
        files = {f"client/{path.relative_to(CLIENT)}": (path.read_bytes(), 0o644) for path in CLIENT.rglob("*") if path.is_file()}
        files |= self.beside | {"var/task/probe.py": (source("probe.py").encode(), 0o644), "var/task/data.txt": (DATA.encode(), 0o644)}
        # Uncompressed: to make it small takes longer than everything else.
        return Image(
            base, tree(files), pack=bytes, Entrypoint=[program, "-m", "awslambdaric"], Cmd=["probe.handler"], WorkingDir="/var/task",
            Env=["PYTHONPATH=/client", "LD_LIBRARY_PATH=/python/lib", "PATH=/python/bin", LANGUAGE],
        )

    def error(self, message, request_id):
        return {**super().error(message, request_id), "requestId": request_id}
