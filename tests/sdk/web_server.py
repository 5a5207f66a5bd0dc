"""A web server of the standard library that does what a test asks for by the path; packed as it is into functions."""

import base64
import hashlib
import json
import os
import signal
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ME = base64.b32encode(os.urandom(5)).decode()
ARRIVED = threading.Condition()
WAITING = [0]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, content, status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers.setdefault("Content_Type", "application/json")
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def handle_any(self):
        parts = urllib.parse.urlsplit(self.path)
        name = parts.path.strip("/").split("/")[-1] or "root"
        query = dict(urllib.parse.parse_qsl(parts.query))
        act = getattr(self, "on_" + name, None)
        if act:
            return act(query)
        body = self.body()
        headers = [[key.lower(), value] for key, value in self.headers.items()]
        self.answer({"method": self.command, "path": self.path, "headers": headers, "me": ME, "body": base64.b64encode(body).decode()})

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = handle_any

    def on_env(self, _):
        self.answer(dict(os.environ))

    def on_binary(self, _):
        self.body()
        self.answer(bytes(range(256)), Content_Type="image/png", Set_Cookie="a=1")

    def on_cookies(self, _):
        self.send_response(200)
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("Connection", "X-Hop")
        self.send_header("X-Hop", "1")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def on_count(self, _):
        body = self.body()
        self.answer({"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()})

    def on_big(self, query):
        self.answer(b"x" * int(query["n"]), Content_Type="application/octet-stream")

    def on_status(self, query):
        self.body()
        self.answer({"status": query["code"]}, status=int(query["code"]))

    def on_nothing(self, _):
        self.send_response(204)
        self.end_headers()

    def chunk(self, data):
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def on_stream(self, query):
        """Pieces, each after the client has asked for it by `/go`; without that, at once."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number in range(int(query.get("n", 3))):
            self.chunk(f"data: {number}\n\n".encode())
            if "gated" in query:
                GO.wait(20)
                GO.clear()
        self.chunk(b"")

    def on_endless(self, _):
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            while True:
                self.chunk(b"tick\n")
                time.sleep(0.05)
        except OSError:
            print("nobody listens", flush=True)

    def on_go(self, _):
        GO.set()
        self.answer({})

    def on_together(self, query):
        """Answers once so many requests are here at once."""
        with ARRIVED:
            WAITING[0] += 1
            ARRIVED.notify_all()
            ARRIVED.wait_for(lambda: WAITING[0] >= int(query["n"]), 20)
        self.answer({"me": ME, "together": WAITING[0]})

    def on_print(self, query):
        print(query["text"], flush=True)
        self.answer({})

    def on_sleep(self, query):
        time.sleep(float(query["s"]))
        self.answer({"me": ME})

    def on_crash(self, _):
        print("about to crash", file=sys.stderr, flush=True)
        os._exit(3)

    def on_garbage(self, _):
        self.wfile.write(b"nonsense\r\n\r\n")
        self.close_connection = True

    def on_close(self, _):
        self.close_connection = True

    def on_half(self, _):
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf")
        self.close_connection = True

    def on_twice(self, _):
        """A length and chunks: whoever believes the one is out of step with who believes the other."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd")
        self.close_connection = True

    def on_heavy(self, query):
        self.send_response(200)
        self.send_header("X-Heavy", "y" * int(query["n"]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def on_events(self, _):
        event = json.loads(self.body())
        if event == "fail":
            return self.answer({"no": "thanks"}, status=503)
        self.answer({"event": event, "trace": self.headers.get("x-amzn-trace-id") is not None})


GO = threading.Event()


def stop(*_):
    print("asked to stop", flush=True)
    time.sleep(0.2)
    print("stopped in order", flush=True)
    os._exit(0)


class Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    time.sleep(float(os.environ.get("SLOW", 0)))
    print("listening", flush=True)
    Server(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
