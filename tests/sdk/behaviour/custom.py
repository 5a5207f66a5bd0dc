"""Custom runtimes: Go with AWS's client, and a shell script that speaks the Runtime API by itself."""

import shutil

from . import Custom, built, source


class Go(Custom):
    """A static program with aws-lambda-go."""

    name = "go"
    error_type, trace = "errorString", None
    init_error_type = "Runtime.ExitError"
    surrogate = '"\N{REPLACEMENT CHARACTER}"'.encode()

    def missing(self):
        return None if shutil.which("go") else "Go is not on this machine: its runtime client is not tested"

    def program(self):
        command = "go build -tags lambda.norpc -ldflags '-s -w' -o {out} ."
        return built("go", command, None, CGO_ENABLED="0", GOFLAGS="-mod=readonly")


class Shell(Custom):
    """No client of anybody's."""

    name = "shell"

    def missing(self):
        return None if shutil.which("curl") else "curl is not on this machine"

    def program(self):
        return source("probe.sh")
