"""WebAssembly: a command of WASI, from Go."""

import shutil

from . import Runtime, built


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
