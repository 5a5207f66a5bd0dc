"""A web server: the probe in Python behind the server of its standard library."""

import json

from conftest import PYTHON

from . import Runtime, http_stream, source


class Web(Runtime):
    """Several calls at once in one environment."""

    name = "web"
    runtime = PYTHON
    handler = "web"
    variables = {"DUNLIN_WEB_COMMAND": "exec python web.py", "DUNLIN_WEB_CONCURRENCY": "8", "DUNLIN_WEB_STARTUP": "3"}
    execution_env = f"AWS_Lambda_{PYTHON}"
    error_type, trace = "Runtime.WebServerStatus", None
    init_error_type = "Runtime.ExitError"
    init_hangs = "Init timed out after 3.00 seconds"
    busy = {"do": "sleep", "ms": 30_000}
    streaming = {"Environment": {"AWS_LWA_INVOKE_MODE": "response_stream"}}

    def error(self, message, request_id):
        document = json.dumps({"statusCode": 500, "body": message}, ensure_ascii=False, separators=(",", ":"))
        return {"errorType": self.error_type, "errorMessage": document}

    def stream_event(self, ms):
        return http_stream(ms)

    def streamed_whole(self, answer):
        return answer["json"]["body"]

    def files(self):
        return {"probe.py": source("probe.py"), "web.py": source("web.py")}
