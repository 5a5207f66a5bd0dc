"""The probe in Python as a web server: events are posted to it, and it answers their values."""

import json
import os
import types
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import probe


class Context:
    """What the platform says of a call in a header."""

    def __init__(self, headers):
        told = json.loads(headers["x-amzn-lambda-context"])
        config, client = told["env_config"], told["client_context"]
        self.client_context = client and types.SimpleNamespace(custom=client["custom"])
        self.aws_request_id, self.invoked_function_arn = told["request_id"], told["invoked_function_arn"]
        self.function_name, self.function_version = config["function_name"], config["version"]
        self.memory_limit_in_mb = config["memory"]
        self.log_group_name, self.log_stream_name = config["log_group"], config["log_stream"]
        self.deadline = told["deadline"]

    def get_remaining_time_in_millis(self):
        return self.deadline - int(probe.time.time() * 1000)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, content, kind="application/json", status=200):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.answer(b"ready")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/stream":
            return self.stream(json.loads(body))
        if self.path != "/events":
            return self.answer(body, "application/octet-stream")
        event = json.loads(body)
        try:
            content = json.dumps(probe.act(event, Context(self.headers))).encode()
        except probe.ProbeError as error:
            return self.answer(str(error).encode(), "text/plain", 500)
        return self.answer(content)

    def stream(self, event):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in ("first ", "last"):
            self.wfile.write(f"{len(piece):x}\r\n{piece}\r\n".encode())
            self.wfile.flush()
            if piece != "last":
                probe.time.sleep(event["ms"] / 1000)
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64


Server(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
