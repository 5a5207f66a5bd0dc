"""moto's S3 as a server in this process, which keeps how each request was signed."""

import hashlib
import hmac
import io
import os
import threading
from contextlib import contextmanager

# Whatever it is called, a bucket is named by the path.
os.environ.setdefault("S3_IGNORE_SUBDOMAIN_BUCKETNAME", "true")

from moto.core import DEFAULT_ACCOUNT_ID  # noqa: E402
from moto.s3.models import s3_backends  # noqa: E402
from moto.server import DomainDispatcherApplication, create_backend_app  # noqa: E402
from werkzeug.serving import WSGIRequestHandler, make_server  # noqa: E402


class _Quiet(WSGIRequestHandler):
    def log(self, type, message, *args):
        pass


class Double:
    """A server of S3 on loopback; `seen` has what is needed to check each request's signature."""

    def __init__(self):
        self.seen = []
        application = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._recorded(application), threaded=True, request_handler=_Quiet)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def _recorded(self, application):
        def answer(environ, start_response):
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            names = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}
            headers = {names.get(key, key[5:].replace("_", "-").lower()): value
                       for key, value in environ.items() if key.startswith("HTTP_") or key in names}
            self.seen.append((environ["REQUEST_METHOD"], environ["RAW_URI"], headers, hashlib.sha256(body).hexdigest()))
            environ["wsgi.input"] = io.BytesIO(body)
            environ["HTTP_HOST"] = f"127.0.0.1:{self.port}"
            return application(environ, start_response)
        return answer

    def fill(self, bucket, names):
        """Makes empty objects of these names, without a request for each."""
        for name in names:
            s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, name, b"")

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def serving():
    double = Double()
    try:
        yield double
    finally:
        double.close()


def _mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def is_signed_with(request, access_key, secret, service="s3"):
    """Whether a request that was seen carries this key pair's signature, version 4, over all that must be signed."""
    method, target, headers, payload = request
    path, _, query = target.partition("?")
    claim = dict(part.strip().split("=", 1) for part in headers["authorization"].split(" ", 1)[1].split(","))
    claimed_key, *scope = claim["Credential"].split("/")
    names = claim["SignedHeaders"].split(";")
    required = {"host", *(name for name in headers if name.startswith("x-amz-"))}
    if claimed_key != access_key or scope[2:] != [service, "aws4_request"] or not required <= set(names):
        return False
    if headers["x-amz-content-sha256"] != payload:
        return False
    pairs = sorted(pair if "=" in pair else f"{pair}=" for pair in query.split("&") if pair)
    signed = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in names)
    canonical = "\n".join([method, path, "&".join(pairs), signed, ";".join(names), payload])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    text = "\n".join(["AWS4-HMAC-SHA256", headers["x-amz-date"], "/".join(scope), digest])
    key = f"AWS4{secret}".encode()
    for part in scope:
        key = _mac(key, part)
    return hmac.compare_digest(_mac(key, text).hex(), claim["Signature"])
