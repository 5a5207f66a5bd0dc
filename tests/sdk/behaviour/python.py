"""Python, on the development and on the production server."""

from conftest import PYTHON

from . import Runtime, source


class Python(Runtime):
    """The managed runtime."""

    name = "python"
    runtime = PYTHON
    handler = "probe.handler"
    execution_env = f"AWS_Lambda_{PYTHON}"

    def __init__(self, name="python", server="dev"):
        self.name, self.server = name, server

    def files(self):
        return {"probe.py": source("probe.py")}

    def lost(self, server):
        name = server.function(self.files(), handler="probe.nothing")
        return name, "Runtime.HandlerNotFound", "Handler 'nothing' missing on module 'probe'"

    def error(self, message, request_id):
        return {**super().error(message, request_id), "requestId": request_id}
