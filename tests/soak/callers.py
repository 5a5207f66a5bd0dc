"""Those who call, send events, publish versions, and deploy and remove functions, at a bounded rate; and what they saw."""

import base64
import http.client
import json
import threading
import time

import botocore.exceptions

from chaos.servers import package
from soak.functions import KINDS, NODE_VERSION, PYTHON_RECORDS, PYTHON_VERSION, unique, was_killed


class Answer:
    """What came back: HTTP status, `FunctionError`, parsed body, request id."""

    def __init__(self, status, error, body, request):
        self.status, self.error, self.body, self.request = status, error, body, request

    def __repr__(self):
        return f"{self.status} {self.error} {str(self.body)[:300]}"


class Seen:
    """One call."""

    def __init__(self, function, packages):
        self.function, self.packages = function, packages
        self.began = time.monotonic()
        self.ended = None
        self.request = None
        self.wrong = None
        self.killed = False

    def end(self, answer, right):
        self.ended = time.monotonic()
        self.request = answer.request
        # A call may outlive its environment's end, never its own: a right answer stays right.
        self.killed = not right and was_killed(answer)
        self.wrong = None if right or self.killed else repr(answer)

    def __repr__(self):
        return f"{self.function} {self.request} {self.began:.3f}-{self.ended or 0:.3f}: {self.wrong or 'killed'}"


class Load:
    """All that is done to a server, by threads that end with `end`."""

    def __init__(self, server, families, chance, callers, pause):
        self.server, self.families, self.chance = server, families, chance
        self.client = server.client("lambda")
        self.pause = pause
        self.over = threading.Event()
        self.calls = []
        self.events = []
        self.errors = []
        self.hosts = {}
        self.packages = {}
        self.deployments = 0
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self.repeat, args=(self.call_one,)) for _ in range(callers)]
        for step, slower in ((self.send_event, 5), (self.publish, 12), (self.deploy_and_remove, 12)):
            self.threads.append(threading.Thread(target=self.repeat, args=(step, slower)))

    # Making and removing.

    def create(self):
        """Deploys every kind, and what the others need."""
        self.kinds = [kind for kind in KINDS if kind.family in self.families]
        for kind in self.kinds:
            self.deploy(kind.name, kind.family, kind.code, **kind.settings)
            if kind.via != "invoke":
                mode = "RESPONSE_STREAM" if kind.via == "stream" else "BUFFERED"
                made = self.client.create_function_url_config(FunctionName=kind.name, AuthType="NONE", InvokeMode=mode)
                self.server.open_url(kind.name)
                self.hosts[kind.name] = made["FunctionUrl"].split("/")[2]
        self.deploy("records", "python", PYTHON_RECORDS)
        number, code = self.next_version("python")
        self.deploy("published", "python", code)
        made = self.client.publish_version(FunctionName="published")
        self.client.create_alias(FunctionName="published", Name="live", FunctionVersion=made["Version"])
        self.published = {made["Version"]: number}

    def remove(self):
        """Deletes every function."""
        for page in self.client.get_paginator("list_functions").paginate():
            for function in page["Functions"]:
                self.client.delete_function(FunctionName=function["FunctionName"])

    def next_version(self, family):
        """A number that no deployment had before, and code that answers it."""
        with self.lock:
            self.deployments += 1
            number = self.deployments
        code = PYTHON_VERSION if family == "python" else NODE_VERSION
        return number, code.replace("{number}", str(number))

    def deploy(self, name, family, code, **settings):
        settings.setdefault("Timeout", 60)
        self.server.create(name, code, self.families[family], **settings)
        self.knows(name)

    def knows(self, name):
        """Notes what a function's package is called on the disk."""
        shown = self.client.get_function_configuration(FunctionName=name)["CodeSha256"]
        self.packages.setdefault(name, set()).add(base64.b64decode(shown).hex())

    # Running.

    def start(self):
        for thread in self.threads:
            thread.start()

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(120)
            assert not thread.is_alive(), "a call is never answered"

    def repeat(self, step, slower=1):
        while not self.over.wait(self.chance.expovariate(1 / (self.pause * slower))):
            try:
                step()
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is a finding.
                self.errors.append(f"{step.__name__}: {error!r}")

    def call_one(self):
        kind = self.chance.choices(self.kinds, [kind.weight for kind in self.kinds])[0]
        self.call(kind)

    def call(self, kind, payload=None):
        payload = payload or kind.payload(self.chance)
        seen = Seen(kind.name, self.packages[kind.name])
        self.calls.append(seen)
        if kind.via == "invoke":
            answer = self.invoke(kind.name, payload)
        else:
            answer = self.fetch(kind, payload)
        seen.end(answer, kind.judge(payload, answer))

    def invoke(self, name, payload, **options):
        got = self.client.invoke(FunctionName=name, Payload=json.dumps(payload), **options)
        text = got["Payload"].read()
        request = got["ResponseMetadata"]["RequestId"]
        return Answer(got["StatusCode"], got.get("FunctionError"), json.loads(text) if text else None, request)

    def fetch(self, kind, payload):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=90)
        try:
            streamed = kind.via == "stream"
            path, body = (f"/?bytes={payload['bytes']}", None) if streamed else ("/", json.dumps(payload))
            connection.request("POST", path, body, {"Host": self.hosts[kind.name], "Content-Type": "application/json"})
            got = connection.getresponse()
            request = got.getheader("x-amzn-requestid")
            try:
                content = got.read()
            except (http.client.IncompleteRead, ConnectionError):
                # How a stream ends whose environment has ended.
                return Answer(502, None, None, request)
            whole = streamed or got.status != 200
            return Answer(got.status, None, content if whole else json.loads(content), request)
        finally:
            connection.close()

    def send_event(self):
        payload = json.dumps({"event": unique()})
        got = self.client.invoke(FunctionName="records", InvocationType="Event", Payload=payload)
        assert got["StatusCode"] == 202, got
        self.events.append(got["ResponseMetadata"]["RequestId"])

    def expect_number(self, name, packages, number, **options):
        """A call of something that answers with the number of its deployment."""
        seen = Seen(name, packages)
        self.calls.append(seen)
        answer = self.invoke(name, {}, **options)
        seen.end(answer, answer.error is None and answer.body == number)

    def publish(self):
        """Publishes a version, moves the alias, calls both, and deletes the oldest version."""
        name = "published"
        number, code = self.next_version("python")
        made = self.client.update_function_code(FunctionName=name, ZipFile=package(main__py=code), Publish=True)
        self.knows(name)
        version = made["Version"]
        self.published[version] = number
        self.client.update_alias(FunctionName=name, Name="live", FunctionVersion=version)
        self.expect_number(name, self.packages[name], number, Qualifier="live")
        some = self.chance.choice(list(self.published))
        self.expect_number(name, self.packages[name], self.published[some], Qualifier=some)
        if len(self.published) > 4:
            oldest = min(self.published, key=int)
            del self.published[oldest]
            self.client.delete_function(FunctionName=name, Qualifier=oldest)
            self.is_gone(name, Qualifier=oldest)

    def deploy_and_remove(self):
        """Deploys a function under a name that others had before, calls it twice, and deletes it."""
        family = self.chance.choice(list(self.families))
        name = f"short-{self.chance.randrange(4)}"
        number, code = self.next_version(family)
        self.deploy(name, family, code)
        for _ in range(2):
            self.expect_number(name, self.packages[name], number)
        self.client.delete_function(FunctionName=name)
        self.is_gone(name)

    def is_gone(self, name, **options):
        try:
            answer = self.invoke(name, {}, **options)
        except botocore.exceptions.ClientError as error:
            if error.response["Error"]["Code"] == "ResourceNotFoundException":
                return
            raise
        self.errors.append(f"{name} {options} answers after it was deleted: {answer}")
