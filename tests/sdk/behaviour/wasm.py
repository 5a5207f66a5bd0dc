"""WebAssembly: a command of WASI, from Go, and a component that takes HTTP, from Rust."""

import functools
import pathlib
import shutil
import subprocess

from . import KEPT, Runtime, built, http_stream


class Command(Runtime):
    """It reads its event and writes its answer."""

    name = "wasm"
    trace = None
    init_error_type = "Runtime.ExitError"
    surrogate = '"\N{REPLACEMENT CHARACTER}"'.encode()

    def missing(self):
        return None if shutil.which("go") else "Go is not on this machine"

    def files(self):
        command = "go build -ldflags '-s -w' -o {out} ."
        return {"bootstrap.wasm": built("go", command, None, GOOS="wasip1", GOARCH="wasm", GOFLAGS="-mod=readonly", GOTOOLCHAIN="local")}

    def error(self, message, request_id):
        words = f"RequestId: {request_id} Error: Runtime exited with error: exit status 1"
        return {"errorType": "Runtime.ExitError", "errorMessage": words}


TARGET = "wasm32-wasip2"


@functools.cache
def has_target():
    """Whether Rust can compile for it."""
    if not shutil.which("cargo"):
        return False
    shown = subprocess.run(["rustc", "--print", "target-libdir", "--target", TARGET], capture_output=True, text=True, check=False)
    return shown.returncode == 0 and pathlib.Path(shown.stdout.strip()).is_dir()


def without_target():
    """Why Rust compiles no components here, if it does not."""
    return None if has_target() else f"Rust cannot compile for {TARGET} here (rustup target add {TARGET})"


def component(folder, name, features=""):
    """A component in Rust, from a folder. Those of one name are built one after another."""
    target = KEPT / f"target-{name}"
    command = f"CARGO_TARGET_DIR={target} cargo build -q --release --locked --target {TARGET} {features}"
    return built(folder, f"{command} && cp {target}/{TARGET}/release/{name}.wasm {{out}}", None)


class Component(Runtime):
    """It is posted its event, and sent what clients of its URL send."""

    name = "wasi-http"
    trace = None
    # WASI 0.2 has no working folder, and its `exit` knows success and failure only.
    folder = "/"
    exit_status = 1

    def missing(self):
        return without_target()

    def files(self):
        return {"bootstrap.wasm": component("rust", "probe")}

    def error(self, message, request_id):
        return {"errorType": "HttpStatus500", "errorMessage": message}

    def stream_event(self, ms):
        return http_stream(ms)

    def streamed_whole(self, answer):
        return answer["json"]["body"]
