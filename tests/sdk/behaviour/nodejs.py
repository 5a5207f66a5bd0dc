"""Node.js, with both kinds of modules."""

from conftest import NODE

from . import Runtime, source

MODULE = "import probe from './probe.cjs';\nexport const handler = probe.handler;\nexport const stream = probe.stream;\n"


class Node(Runtime):
    """The managed runtime."""

    name = "nodejs"
    runtime = NODE
    handler = "probe.handler"
    streaming = {"Handler": "probe.stream"}
    execution_env = f"AWS_Lambda_{NODE}"
    trace = "trace"

    def files(self):
        return {"probe.cjs": source("probe.cjs")}

    def lost(self, server):
        name = server.function(self.files(), runtime=NODE, handler="probe.nothing")
        return name, "Runtime.HandlerNotFound", "probe.nothing is undefined or not exported"


class Module(Node):
    """The handler is in an ECMAScript module."""

    name = "nodejs-esm"
    handler = "main.handler"
    streaming = {"Handler": "main.stream"}

    def files(self):
        return super().files() | {"main.mjs": MODULE}

    def lost(self, server):
        name = server.function(self.files(), runtime=NODE, handler="main.nothing")
        return name, "Runtime.HandlerNotFound", "main.nothing is undefined or not exported"
