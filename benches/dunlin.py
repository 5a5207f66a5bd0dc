"""The platform under measurement: a server of its own on a free port, and the AWS calls that set it up.

Not here: measurements. Calls are made as a client in `dev` makes them, with a signature that is not checked.
"""
import base64
import http.client
import io
import json
import os
import signal
import subprocess
import time
import zipfile

from machine import free_port

ROLE = "arn:aws:iam::000000000000:role/bench"


def authorization(service):
    """An Authorization header for a service; `dev` wants one and believes it."""
    scope = f"bench/20260101/us-east-1/{service}/aws4_request"
    return f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host;x-amz-date, Signature={'0' * 64}"


def zipped(files):
    """A package of {name: (bytes, mode)}."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as package:
        for name, (content, mode) in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            package.writestr(entry, content)
    return held.getvalue()


class Server:
    """`dunlin dev` in a folder; started at once, and ready when this returns."""

    def __init__(self, binary, folder, *arguments):
        self.binary = binary
        self.port = free_port()
        self.log = open(os.path.join(folder, "server.log"), "ab")
        command = [binary, "dev", "--listen", f"127.0.0.1:{self.port}", "--data-dir", os.path.join(folder, "data"), *arguments]
        begin = time.perf_counter()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        while not self._healthy():
            if self.process.poll() is not None or time.perf_counter() - begin > 60:
                raise RuntimeError(f"the server did not start; see {self.log.name}")
            time.sleep(0.001)
        self.ready_ms = (time.perf_counter() - begin) * 1e3

    def _healthy(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/_dunlin/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        """Stops it and waits."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()

    def call(self, service, method, path, body=None, headers=None):
        """An AWS call; the answer's document."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        sent = {"Authorization": authorization(service), "X-Amz-Date": "20260101T000000Z", **(headers or {})}
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:400].decode(errors='replace')}")
        return json.loads(text) if text else {}

    def target(self, service, operation, body):
        """A call of the JSON protocol: `DynamoDB_20120810.PutItem`."""
        version = "1.0" if service == "dynamodb" else "1.1"
        headers = {"X-Amz-Target": operation, "Content-Type": f"application/x-amz-json-{version}"}
        return self.call(service, "POST", "/", body, headers)

    def create_function(self, name, runtime, handler, package, memory_mb=512, qualifier=None, **more):
        """Creates a function with a URL, of an alias that is made for it if there is one; the path at which that answers."""
        settings = {
            "FunctionName": name, "Runtime": runtime, "Handler": handler, "Role": ROLE, "MemorySize": memory_mb,
            "Timeout": 30, "Code": {"ZipFile": base64.b64encode(package).decode()}, **more,
        }
        self.call("lambda", "POST", "/2015-03-31/functions", settings)
        self.settled(name)
        of_alias = ""
        if qualifier:
            alias = {"Name": qualifier, "FunctionVersion": self.publish(name)}
            self.call("lambda", "POST", f"/2015-03-31/functions/{name}/aliases", alias)
            of_alias = f"?Qualifier={qualifier}"
        url = self.call("lambda", "POST", f"/2021-10-31/functions/{name}/url{of_alias}", {"AuthType": "NONE"})["FunctionUrl"]
        everybody = {"Action": "lambda:InvokeFunctionUrl", "Principal": "*", "FunctionUrlAuthType": "NONE"}
        self.call("lambda", "POST", f"/2015-03-31/functions/{name}/policy{of_alias}", {"StatementId": "public", **everybody})
        return f"/_dunlin/url/{url.split('//')[1].split('.')[0]}/"

    def publish(self, name, alias=None):
        """Makes a version of the function as it is, to which the alias moves once it is ready; its number."""
        version = self.call("lambda", "POST", f"/2015-03-31/functions/{name}/versions", {})["Version"]
        self.settled(f"{name}:{version}")
        if alias:
            self.call("lambda", "PUT", f"/2015-03-31/functions/{name}/aliases/{alias}", {"FunctionVersion": version})
        return version

    def settled(self, name):
        """Waits until the function can be called as it was last configured."""
        for _ in range(3000):
            seen = self.call("lambda", "GET", f"/2015-03-31/functions/{name}/configuration")
            if seen.get("State", "Active") == "Active" and seen.get("LastUpdateStatus", "Successful") == "Successful":
                return
            time.sleep(0.01)
        raise RuntimeError(f"{name} did not become active")

    def renew(self, name, mark, variables=None):
        """Changes a variable, so that the next call needs a new environment of the same package."""
        body = {"Environment": {"Variables": {**(variables or {}), "MARK": str(mark)}}}
        self.call("lambda", "PUT", f"/2015-03-31/functions/{name}/configuration", body)
        self.settled(name)

    def delete_function(self, name):
        """Removes it with its URL and environments."""
        self.call("lambda", "DELETE", f"/2015-03-31/functions/{name}")

    def reports(self, name):
        """What the REPORT lines say, oldest first: [{Duration, Init Duration, …}], numbers only."""
        body = {"logGroupName": f"/aws/lambda/{name}", "filterPattern": "REPORT"}
        events = self.target("logs", "Logs_20140328.FilterLogEvents", body)["events"]
        found = []
        for event in events:
            fields = (field.split(": ", 1) for field in event["message"].split("\t") if ": " in field)
            words = {key: value.split()[0] for key, value in fields}
            found.append({k: float(v) for k, v in words.items() if v.replace(".", "", 1).isdigit()})
        return found
