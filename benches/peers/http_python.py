"""Peer: the handler of functions/python behind the standard library's threaded server. Arguments: folder, port, module."""
import importlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

sys.path.insert(0, sys.argv[1])
handler = importlib.import_module(sys.argv[3] if len(sys.argv) > 3 else "handler").handler


class Hello(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        answer = handler({"path": self.path}, None)
        body = answer["body"].encode()
        self.send_response(answer["statusCode"])
        for name, value in answer["headers"].items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """No access log: the peer does only what the comparison is about."""


Hello.wbufsize = -1
ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Hello).serve_forever()
