"""Drives the Python guest as a child process over a socket pair on its descriptor 3, as the platform does.

Run it with any Python from 3.8 on: `python3 runtimes/python/test_bootstrap.py`. `DUNLIN_TEST_PYTHON` names another
interpreter for the guest. The tables below hold most cases; each starts a guest of its own.
"""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import unittest

BOOTSTRAP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.py")
PYTHON = os.environ.get("DUNLIN_TEST_PYTHON", sys.executable)
BOOTED = 15
KINDS = {16: "READY", 17: "INIT_ERROR", 18: "RESPONSE", 19: "ERROR", 20: "BEGIN", 21: "CHUNK", 22: "END"}


class Guest:
    """One guest process and the platform's end of its channel."""

    def __init__(self, flags=("-S", "-s", "-X", "utf8"), **variables):
        self.channel, child = socket.socketpair()
        self.channel.settimeout(20)
        self.output = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [PYTHON, *flags, BOOTSTRAP],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=subprocess.STDOUT,
            env={"PATH": os.environ.get("PATH", ""), **variables},
            close_fds=False,
            preexec_fn=lambda: os.dup2(child.fileno(), 3),
        )
        child.close()

    def send(self, *frames):
        self.channel.sendall(b"".join(frames))

    def exactly(self, count):
        parts = []
        while count:
            part = self.channel.recv(min(count, 1 << 20))
            if not part:
                return None
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def next(self):
        """The next frame as (kind, content), None when the guest has ended."""
        try:
            head = self.exactly(5)
        except ConnectionResetError:
            return None
        if head is None:
            return None
        body = self.exactly(struct.unpack("<I", head[:4])[0] - 1)
        if head[4] == BOOTED:
            # The first frame of every guest says only that it is up.
            return self.next()
        kind = KINDS[head[4]]
        if kind == "RESPONSE":
            self.run_us, size = struct.unpack("<II", body[:8])
            return kind, (body[8 : 8 + size].decode(), body[8 + size :])
        if kind == "CHUNK":
            return kind, body
        return kind, json.loads(body) if body else None

    def load(self, root, handler, environment=None, caches=None, **more):
        self.send(load_frame(root, handler, environment, caches, **more))
        return self.next()

    def invoke(self, event, **meta):
        self.send(invoke_frame(event, **meta))
        return self.next()

    def close(self):
        """Ends the guest; its exit code and what it wrote."""
        self.channel.close()
        code = self.process.wait(20)
        self.output.seek(0)
        log = self.output.read().decode()
        self.output.close()
        return code, log


def read_log(text):
    """The output as its lines are read (`crates/compute/src/output.rs`): a mark before an event ends the line that was begun."""
    return re.sub("(?m)^\x1e\n", "", text).replace("\x1e\n", "\n")


def frame(kind, body):
    return struct.pack("<IB", len(body) + 1, kind) + body


def load_frame(root, handler, environment=None, caches=None, **more):
    variables = {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.12", **(environment or {})}
    order = {"root": root, "handler": handler, "environment": variables, "cold": True, **more}
    return frame(1, json.dumps({**order, "caches": caches} if caches else order).encode())


def invoke_frame(event, **meta):
    fields = {"requestId": "request-1", "deadlineMs": int(time.time() * 1000) + 3000, "functionArn": "arn:f", **meta}
    text = json.dumps(fields).encode()
    body = event if isinstance(event, bytes) else json.dumps(event).encode()
    return frame(2, struct.pack("<I", len(text)) + text + body)


class GuestCase(unittest.TestCase):
    """What all tests share."""

    maxDiff = None

    def folder(self, files):
        root = os.path.realpath(tempfile.mkdtemp(prefix="guest-"))
        self.addCleanup(shutil.rmtree, root, True)
        for name, text in files.items():
            path = os.path.join(root, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return root

    def run_guest(self, files, handler="app.handler", events=({},), environment=None, **meta):
        """(frame of the load, answers, exit code, log)."""
        if isinstance(files, str):
            files = {"app.py": files}
        guest = Guest()
        loaded = guest.load(self.folder(files), handler, environment)
        answers = []
        if loaded and loaded[0] == "READY":
            for event in events:
                answers.append(guest.invoke(event, **meta))
                if answers[-1] is None:
                    break
        code, log = guest.close()
        return loaded, answers, code, read_log(log)


# source of the handler's body, expected content
ANSWERS = [
    ("return {'got': event}", '{"got": {"n": 1}}'),
    ("return None", "null"),
    ("pass", "null"),
    ("return 'é'", '"é"'),
    ("from decimal import Decimal as D; return [D('1.10'), {'a': D(7)}, D('1E+5'), D('NaN')]", '[1.10, {"a": 7}, 1E+5, NaN]'),
    ("return float('nan')", "NaN"),
    ("return (1, 2)", "[1, 2]"),
    ("return {1: 'key'}", '{"1": "key"}'),
    ("return 10 ** 30", str(10**30)),
]

# source of the handler's body, expected type and message
ERRORS = [
    ("raise ValueError('bad')", "ValueError", "bad"),
    ("raise KeyError('k')", "KeyError", "'k'"),
    ("return {1, 2}", "Runtime.MarshalError", "Unable to marshal response: Object of type set is not JSON serializable"),
    ("return object()", "Runtime.MarshalError", "Unable to marshal response: Object of type object is not JSON serializable"),
    ("async def f(): pass\n    c = f()\n    c.close()\n    return c", "Runtime.MarshalError",
     "Unable to marshal response: Object of type coroutine is not JSON serializable"),
    ("return (i for i in [])", "Runtime.MarshalError",
     "Unable to marshal response: Object of type generator is not JSON serializable"),
    ("a = []; a.append(a); return a", "Runtime.MarshalError", "Unable to marshal response: Circular reference detected"),
    ("class E(Exception):\n        def __str__(self): raise TypeError\n    raise E", "E", "the error's text cannot be made: TypeError"),
    ("class E(Exception):\n        def __str__(self): raise SystemExit(5)\n    raise E", "E", "the error's text cannot be made: SystemExit"),
    ("class E(Exception):\n        def __str__(self): return str(self)\n    raise E", "E",
     "the error's text cannot be made: RecursionError"),
    ("class M(type):\n        __name__ = property(lambda c: 1 / 0)\n    class E(Exception, metaclass=M): pass\n    raise E('m')", "E", "m"),
    ("class L:\n        def get_source(self, name): raise KeyboardInterrupt\n"
     "    exec(compile('raise ValueError(1)', 'x.py', 'exec'), {'__name__': 'x', '__loader__': L()})", "ValueError", "1"),
    ("e = ValueError('c'); e.__cause__ = e.__context__ = e; raise e", "ValueError", "c"),
    ("raise MemoryError", "MemoryError", ""),
]

# files, handler, expected type and message
REFUSED = [
    ({}, "app", "Runtime.MalformedHandlerName", "Bad handler 'app': not enough values to unpack (expected 2, got 1)"),
    ({}, "app.handler", "Runtime.ImportModuleError", "Unable to import module 'app': No module named 'app'"),
    ({"app.py": "import nope"}, "app.handler", "Runtime.ImportModuleError",
     "Unable to import module 'app': No module named 'nope'"),
    ({"app.py": "x = 1"}, "app.handler", "Runtime.HandlerNotFound", "Handler 'handler' missing on module 'app'"),
    ({"app.py": "def f(:"}, "app.handler", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app': "),
    ({}, "sys.exit", "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
    ({"app.py": "raise RuntimeError('at init')"}, "app.handler", "RuntimeError", "at init"),
]

# files, handler
FOUND = [
    ({"src/deep/app.py": "def handler(e, c): return 1"}, "src/deep/app.handler"),
    ({"src/deep/app.py": "def handler(e, c): return 1"}, "src.deep.app.handler"),
    ({"src/v1/pkg/__init__.py": "", "src/v1/pkg/app.py": "from . import near\nhandler = near.handler",
      "src/v1/pkg/near.py": "def handler(e, c): return 1"}, "src/v1/pkg/app.handler"),
    ({"pkg/__init__.py": "from .inner import handler", "pkg/inner.py": "def handler(e, c): return 1"}, "pkg.handler"),
    ({"bootstrap.py": "def handler(e, c): return 1"}, "bootstrap.handler"),
    ({"app.py": "class App:\n    def __call__(self, e, c): return 1\nhandler = App()"}, "app.handler"),
]


class WrappedTest(GuestCase):
    """What a wrapper has said before the guest began."""

    def wrapped(self, auto):
        files = {"app.py": "MARK = None\ndef handler(event, context):\n    return 'mine'\n"}
        files["app.py"] += "def other(event, context):\n    import os\n    return os.environ.get('MARK')\n"
        root, auto = self.folder(files | {"sitecustomize.py": "raise ValueError('not of the package')"}), self.folder(auto)
        guest = Guest(PYTHONPATH=auto, _HANDLER="app.other")
        loaded = guest.load(root, "app.handler", wrapped=True)
        self.assertEqual(loaded, ("READY", None))
        answer = guest.invoke({})[1][1]
        return (json.loads(answer), *guest.close())

    def test_its_handler_and_its_module_count(self):
        answer, code, log = self.wrapped({"sitecustomize.py": "import os\nos.environ['MARK'] = 'auto'\n"})
        self.assertEqual((answer, code, log), ("auto", 0, ""))

    def test_a_function_goes_on_without_a_module_that_fails(self):
        answer, code, log = self.wrapped({"sitecustomize.py": "raise ValueError('bad')"})
        self.assertEqual((answer, code, log), (None, 0, "Error in sitecustomize: ValueError: bad\n"))

    def test_nothing_else_looks_at_it(self):
        auto = self.folder({"sitecustomize.py": "raise ValueError('bad')"})
        guest = Guest(PYTHONPATH=auto, _HANDLER="app.other")
        root = self.folder({"app.py": "def handler(event, context):\n    return 'mine'\n"})
        self.assertEqual(guest.load(root, "app.handler"), ("READY", None))
        self.assertEqual(guest.invoke({})[1][1], b'"mine"')
        self.assertEqual(guest.close(), (0, ""))


class Handlers(GuestCase):
    """What a handler's result means."""

    def test_answers(self):
        for body, expected in ANSWERS:
            with self.subTest(body):
                source = "def handler(event, context):\n    " + body
                _, answers, code, _ = self.run_guest(source, events=[{"n": 1}, {"n": 1}])
                self.assertEqual(answers, [("RESPONSE", ("application/json", expected.encode()))] * 2)
                self.assertEqual(code, 0)

    def test_errors(self):
        for body, kind, message in ERRORS:
            with self.subTest(body):
                _, answers, code, log = self.run_guest("def handler(event, context):\n    " + body, events=[{}, {}])
                self.assertEqual([answer[0] for answer in answers], ["ERROR"] * 2)
                document = answers[1][1]
                self.assertEqual((document["errorType"], document["errorMessage"]), (kind, message))
                self.assertEqual(document["requestId"], "request-1")
                self.assertEqual(list(document), ["errorMessage", "errorType", "requestId", "stackTrace"])
                self.assertEqual(code, 0)
                self.assertIn("[ERROR] %s: %s\rTraceback (most recent call last):" % (kind, message), log)

    def test_an_answer_that_is_too_large(self):
        source = "def handler(event, context):\n    return 'x' * event\n"
        _, answers, code, _ = self.run_guest(source, events=[6291554, 6291555, 1])
        words = "Response payload size exceeded maximum allowed payload size (6291556 bytes)."
        self.assertEqual([answer[0] for answer in answers], ["RESPONSE", "ERROR", "RESPONSE"])
        self.assertEqual(answers[1][1], {"errorType": "Function.ResponseSizeTooLarge", "errorMessage": words})
        self.assertEqual(code, 0)

    def test_a_stack_trace_has_the_functions_frames_only(self):
        source = "def inner():\n    raise ValueError('bad')\n\ndef handler(event, context):\n    inner()\n"
        root_frame = re.compile(r'  File ".*/app\.py", line 5, in handler\n    inner\(\)\n')
        _, answers, _, log = self.run_guest(source)
        trace = answers[0][1]["stackTrace"]
        self.assertEqual(len(trace), 2)
        self.assertRegex(trace[0], root_frame)
        self.assertIn("\r\u00a0\u00a0File ", log)
        self.assertEqual(log.count("\n"), 1)

    def test_an_answer_says_how_long_the_guest_had_the_event(self):
        guest = Guest()
        guest.load(self.folder({"app.py": "import time\ndef handler(e, c): time.sleep(e)"}), "app.handler")
        times = []
        for event in [b"0", b"0.05", b"0"]:
            guest.invoke(event)
            times.append(guest.run_us)
        self.assertGreaterEqual(times[1], 50_000)
        self.assertLess(times[2], times[1])
        self.assertEqual(guest.close()[0], 0)

    def test_bytes_are_sent_as_they_are(self):
        _, answers, _, _ = self.run_guest("def handler(e, c): return b'\\x00\\xff'")
        self.assertEqual(answers, [("RESPONSE", ("application/unknown", b"\x00\xff"))])

    def test_earlier_runtimes_escape_characters(self):
        environment = {"AWS_EXECUTION_ENV": "AWS_Lambda_python3.11"}
        source = "def handler(e, c):\n    import decimal\n    return ['é', decimal.Decimal('1.0')] if e else 'é'"
        _, answers, _, _ = self.run_guest(source, events=[{}, 1], environment=environment)
        self.assertEqual([answer[1][1] for answer in answers], [b'"\\u00e9"', b'["\\u00e9", 1.0]'])

    def test_exits_end_the_process(self):
        for body, expected in [("exit(4)", 4), ("import sys; sys.exit(0)", 0), ("import os; os._exit(9)", 9)]:
            with self.subTest(body):
                _, answers, code, _ = self.run_guest("def handler(event, context):\n    " + body)
                self.assertEqual((answers, code), ([None], expected))

    def test_what_is_no_exception_ends_the_process(self):
        # As AWS's client lets pass what is no `Exception`.
        interrupted = -2
        for body, expected in [
            ("raise GeneratorExit", 1), ("raise KeyboardInterrupt", interrupted), ("raise BaseException('b')", 1),
            ("import asyncio; raise asyncio.CancelledError", 1), ("raise SystemExit('words')", 1), ("raise SystemExit", 0),
        ]:
            with self.subTest(body):
                _, answers, code, _ = self.run_guest("def handler(event, context):\n    " + body)
                self.assertEqual((answers, code), ([None], expected))

    def test_large_payloads(self):
        guest = Guest()
        guest.load(self.folder({"app.py": "def handler(event, context): return event"}), "app.handler")
        event = json.dumps("é" * (3 * 1024 * 1024 - 10), ensure_ascii=False).encode()
        self.assertEqual(guest.invoke(event), ("RESPONSE", ("application/json", event)))
        self.assertEqual(guest.close()[0], 0)

    def test_the_context_is_complete(self):
        source = """def handler(event, c):
    import os
    return [c.aws_request_id, c.function_name, c.function_version, c.invoked_function_arn, c.memory_limit_in_mb,
            c.log_group_name, c.log_stream_name, c.identity.cognito_identity_id, c.client_context.custom,
            c.client_context.client.app_title, c.client_context.env, 1000 < c.get_remaining_time_in_millis() <= 3000,
            os.environ.get('_X_AMZN_TRACE_ID')]"""
        environment = {
            "AWS_LAMBDA_FUNCTION_NAME": "f",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_LAMBDA_LOG_GROUP_NAME": "g",
            "AWS_LAMBDA_LOG_STREAM_NAME": "s",
        }
        client = {"custom": {"a": 1}, "client": {"app_title": "t"}}
        meta = {"clientContext": client, "identity": {"cognitoIdentityId": "i"}, "traceId": "Root=1"}
        _, answers, _, _ = self.run_guest(source, environment=environment, **meta)
        expected = ["request-1", "f", "$LATEST", "arn:f", "128", "g", "s", "i", {"a": 1}, "t", None, True, "Root=1"]
        self.assertEqual(json.loads(answers[0][1][1]), expected)

    def test_no_client_context_is_none(self):
        _, answers, _, _ = self.run_guest("def handler(e, c): return [c.client_context, c.identity.cognito_identity_id]")
        self.assertEqual(answers[0][1][1], b"[null, null]")


class Loading(GuestCase):
    """From handler strings to functions."""

    def test_handlers_are_found(self):
        for files, handler in FOUND:
            with self.subTest(handler):
                loaded, answers, _, _ = self.run_guest(files, handler)
                self.assertEqual(loaded, ("READY", None))
                self.assertEqual(answers[0][1][1], b"1")

    def test_handlers_are_refused(self):
        for files, handler, kind, message in REFUSED:
            with self.subTest(kind):
                loaded, _, code, log = self.run_guest(files, handler)
                self.assertEqual(loaded[0], "INIT_ERROR")
                self.assertEqual(loaded[1]["errorType"], kind)
                self.assertTrue(loaded[1]["errorMessage"].startswith(message), loaded[1]["errorMessage"])
                self.assertEqual(loaded[1]["requestId"], "")
                self.assertIn("[ERROR] %s: %s" % (kind, message), log)
                self.assertEqual(code, 1)

    def test_the_environment_of_load_takes_effect(self):
        files = {
            "app.py": "import os, sys, layered\ndef handler(e, c): return [os.getcwd(), os.environ['COLOUR'], layered.x, sys.path[0]]",
            "layer/layered.py": "x = 'layer'",
        }
        guest = Guest()
        root = self.folder(files)
        guest.load(root, "app.handler", {"COLOUR": "grey", "PYTHONPATH": os.path.join(root, "layer")})
        self.assertEqual(json.loads(guest.invoke({})[1][1]), [root, "grey", "layer", root])
        guest.close()

    def test_load_and_invoke_may_come_together_or_byte_by_byte(self):
        root = self.folder({"app.py": "def handler(event, context): return event"})
        guest = Guest()
        guest.send(load_frame(root, "app.handler"), invoke_frame([1]))
        self.assertEqual([guest.next()[0], guest.next()], ["READY", ("RESPONSE", ("application/json", b"[1]"))])
        for byte in invoke_frame([2]):
            guest.send(bytes([byte]))
        self.assertEqual(guest.next()[1][1], b"[2]")
        self.assertEqual(guest.close()[0], 0)

    def test_the_librarys_logging_is_set_up_whatever_the_function_has(self):
        files = {"app.py": "import logging\ndef handler(e, c): return logging.getLogger().handlers != []", "logging.py": "X = 1"}
        _, answers, _, _ = self.run_guest(files)
        self.assertEqual(answers[0][1][1], b"true")

    def test_little_is_imported_before_the_function_is(self):
        source = "import sys\nseen = sorted(sys.modules)\ndef handler(e, c): return seen"
        _, answers, _, _ = self.run_guest(source)
        seen = json.loads(answers[0][1][1])
        for heavy in ["logging", "traceback", "decimal", "inspect", "tempfile", "typing", "importlib.util"]:
            self.assertNotIn(heavy, seen)


class Logs(GuestCase):
    """What the function logs."""

    def test_text(self):
        source = """import logging
logging.warning('at init')
def handler(event, context):
    logging.getLogger('x').error('a %s', 'b')
    logging.info('below the level')
    print('raw')
    logging.getLogger().setLevel('INFO')
    logging.info('now')
    context.log('direct\\n')
    logging.basicConfig(level=logging.DEBUG)
    logging.debug('not shown: the root logger has a handler already')"""
        _, _, _, log = self.run_guest(source)
        lines = [re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "T", line) for line in log.splitlines()]
        expected = ["[WARNING]\tT\t\tat init", "[ERROR]\tT\trequest-1\ta b", "raw", "[INFO]\tT\trequest-1\tnow", "direct"]
        self.assertEqual(lines, expected)

    def test_a_record_is_one_event(self):
        source = """import logging, sys
def handler(event, context):
    print('part', end='')
    logging.error('two\\nlines\\r\\n')
    sys.stdout.write('more')
    context.log('direct')
    try:
        raise ValueError('x')
    except ValueError:
        logging.exception('failed')
    logging.getLogger().handlers[0].setFormatter(logging.Formatter('%(message)s'))
    logging.error('no end')
    print('raw\\nlines')
    raise ValueError('multi\\nline')"""
        for form in ("TEXT", "JSON"):
            _, _, _, log = self.run_guest(source, environment={"AWS_LAMBDA_LOG_FORMAT": form})
            lines = log.split("\n")
            self.assertEqual([lines[0], lines[2], lines[3]], ["part", "more", "direct"])
            self.assertEqual([lines[5:8], lines[9:]], [["no end", "raw", "lines"], [""]])
            if form == "JSON":
                said = [json.loads(lines[at]) for at in (1, 4, 8)]
                self.assertEqual([one.get("message", one.get("errorMessage")) for one in said], ["two\nlines\r\n", "failed", "multi\nline"])
                continue
            self.assertRegex(lines[1], r"^\[ERROR\]\t.*\ttwo\rlines\r$")
            self.assertRegex(lines[4], r"\tfailed\rTraceback .*\r    raise ValueError\('x'\)\rValueError: x$")
            self.assertRegex(lines[8], r"^\[ERROR\] ValueError: multi\rline\rTraceback")

    def test_records_reach_the_log_whatever_the_output_is(self):
        source = """import contextlib, io, logging, sys
def handler(event, context):
    with contextlib.redirect_stdout(io.StringIO()) as taken:
        print('taken')
        logging.error('one')
    sys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')
    print('later')
    logging.error('two \\u00e9')
    return taken.getvalue()"""
        _, answers, _, log = self.run_guest(source)
        self.assertEqual(answers[0][1][1], b'"taken\\n"')
        self.assertEqual([line.split("\t")[-1] for line in log.splitlines()], ["one", "later", "two é"])

    def test_json(self):
        source = """import logging
def handler(event, context):
    logging.debug('low')
    logging.info({'a': 1}, extra={'more': 2})
    try:
        1 / 0
    except ZeroDivisionError:
        logging.exception('failed %d', 1)
    raise ValueError('é')"""
        environment = {"AWS_LAMBDA_LOG_FORMAT": "JSON", "AWS_LAMBDA_LOG_LEVEL": "INFO"}
        _, _, _, log = self.run_guest(source, environment=environment)
        first, second, third = [json.loads(line) for line in log.splitlines()]
        self.assertRegex(first.pop("timestamp"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
        self.assertEqual(
            first, {"level": "INFO", "message": {"a": 1}, "logger": "root", "requestId": "request-1", "more": 2}
        )
        self.assertEqual((second["level"], second["message"], second["errorType"]), ("ERROR", "failed 1", "ZeroDivisionError"))
        self.assertRegex(second["location"], r"/app\.py:handler:8$")
        self.assertIn("1 / 0", second["stackTrace"][0])
        self.assertEqual((third["level"], third["errorType"], third["errorMessage"]), ("ERROR", "ValueError", "é"))


class CacheTests(GuestCase):
    """Bytecode that the platform keeps beside a package."""

    SOURCES = {
        "app.py": "import os\nimport part.deep\ndef handler(event, context):\n    return part.deep.VALUE, os.path.basename(part.deep.__file__)\n",
        "part/__init__.py": "",
        "part/deep.py": "VALUE = 'one'\n",
        "broken.py": "def (:\n",
        "test.txt": "no source",
    }

    def setUp(self):
        self.root = self.folder(self.SOURCES)
        self.cache = tempfile.NamedTemporaryFile()
        self.addCleanup(self.cache.close)

    def write(self, name, text):
        with open(os.path.join(self.root, name), "w", encoding="utf-8") as file:
            file.write(text)

    def swap(self, name, text):
        """Changes a source so that by its size and time it is the same."""
        path = os.path.join(self.root, name)
        about = os.stat(path)
        self.write(name, text)
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
        self.assertEqual(os.stat(path).st_size, about.st_size)

    def make(self, seen_as=None):
        guest = Guest()
        guest.send(frame(4, json.dumps({"root": self.root, "as": seen_as or self.root}).encode()))
        self.assertEqual(guest.next()[0], "BEGIN")
        pieces = []
        for kind, body in iter(guest.next, None):
            if kind == "END":
                break
            pieces.append(body)
        self.assertEqual(guest.close(), (0, ""))
        with open(self.cache.name, "wb") as file:
            file.write(b"".join(pieces))

    def value(self, **guest):
        guest = Guest(**guest)
        loaded = guest.load(self.root, "app.handler", {"PYTHONDONTWRITEBYTECODE": "1"}, [[self.cache.name, self.root]])
        self.assertEqual(loaded, ("READY", None))
        _, (_, answer) = guest.invoke({})
        self.assertEqual(guest.close()[0], 0)
        value, file = json.loads(answer)
        self.assertEqual(file, "deep.py")
        shutil.rmtree(os.path.join(self.root, "part", "__pycache__"), ignore_errors=True)
        return value

    def test_modules_come_from_the_cache(self):
        self.make()
        self.swap("part/deep.py", "VALUE = 'two'\n")
        self.assertEqual(self.value(), "one")

    def test_another_source_is_compiled(self):
        self.make()
        os.utime(os.path.join(self.root, "part/deep.py"), ns=(1, 1))
        self.swap("part/deep.py", "VALUE = 'two'\n")
        self.assertEqual(self.value(), "two")

    def test_what_is_no_whole_cache_costs_time_only(self):
        self.make()
        with open(self.cache.name, "rb") as file:
            whole = file.read()
        self.swap("part/deep.py", "VALUE = 'two'\n")
        other_interpreter = whole[:8] + b"\0\0\0\0" + whole[12:]
        index_is_noise = whole[:24] + b"\xff" * 40 + whole[64:]
        code_is_noise = whole[:-200] + b"\0" * 200
        for torn in (b"", whole[:10], whole[:-1], other_interpreter, index_is_noise, code_is_noise):
            with open(self.cache.name, "wb") as file:
                file.write(torn)
            self.assertEqual(self.value(), "two")

    def test_it_is_of_a_folder(self):
        self.make(seen_as="/elsewhere")
        with open(self.cache.name, "rb") as file:
            self.assertIn(b"/elsewhere/part/deep.py", file.read())
        self.swap("part/deep.py", "VALUE = 'two'\n")
        guest = Guest()
        guest.load(self.root, "app.handler", {"PYTHONDONTWRITEBYTECODE": "1"}, [[self.cache.name, "/elsewhere"]])
        self.assertEqual(json.loads(guest.invoke({})[1][1])[0], "two")
        guest.close()

    def test_assertions_that_are_left_out_need_another(self):
        self.make()
        self.swap("part/deep.py", "VALUE = 'two'\n")
        self.assertEqual(self.value(flags=("-O", "-S", "-s", "-X", "utf8")), "two")

    def test_bytecode_of_the_package_is_left_to_the_interpreter(self):
        compile_it = "import py_compile, sys; py_compile.compile(sys.argv[1], invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
        subprocess.run([PYTHON, "-c", compile_it, os.path.join(self.root, "part/deep.py")], check=True)
        self.swap("part/deep.py", "VALUE = 'two'\n")
        self.make()
        self.assertEqual(self.value(), "one")


class WatchedTests(unittest.TestCase):
    """What a zygote notices of its imports."""

    def read(self, act):
        sys.path.insert(0, os.path.dirname(BOOTSTRAP))
        try:
            import dunlin_zygote
        finally:
            sys.path.pop(0)
        before = dict(os.environ)
        watched = dunlin_zygote.Watched.begin()
        act()
        names = watched.end()
        self.assertEqual(dict(os.environ), before)
        self.assertIs(type(os.environ), type(os.environb))
        self.assertNotIsInstance(os.environ, watched)
        return names

    def test_names_are_noted_whether_they_are_there_or_not(self):
        def act():
            os.getenv("DUNLIN_A")
            os.environ.get("DUNLIN_B", "x")
            "DUNLIN_C" in os.environ
            os.environb.get(b"DUNLIN_D")
            with self.assertRaises(KeyError):
                os.environ["DUNLIN_E"]

        self.assertEqual(self.read(act), ["DUNLIN_" + letter for letter in "ABCDE"])

    def test_who_looks_at_all_has_looked_at_each(self):
        for act in (lambda: dict(os.environ), os.environ.copy, lambda: list(os.environ), lambda: len(os.environ), lambda: "%s" % os.environ):
            self.assertIsNone(self.read(act))

    def test_a_library_that_can_look_at_variables_is_known(self):
        sys.path.insert(0, os.path.dirname(BOOTSTRAP))
        try:
            import dunlin_zygote
        finally:
            sys.path.pop(0)
        files = dunlin_zygote.mapped_files()
        self.assertTrue(any(os.path.basename(file).startswith("libc") for file in files), files)
        with tempfile.NamedTemporaryFile() as library:
            for content, looks in ((b"\x7fELF secure_getenv\0", True), (b"\0__environ\0", True), (b"\x7fELF puts\0 environment", False)):
                with open(library.name, "wb") as file:
                    file.write(content)
                self.assertEqual(dunlin_zygote.may_look_unseen(library.name), looks)
        self.assertTrue(dunlin_zygote.may_look_unseen("/nonexistent"))

    def test_a_package_is_its_own_modules_and_others(self):
        sys.path.insert(0, os.path.dirname(BOOTSTRAP))
        try:
            import dunlin_zygote
        finally:
            sys.path.pop(0)
        with tempfile.TemporaryDirectory() as root:
            for name in ("app.py", "fast.cpython-311-x86_64-linux-gnu.so"):
                open(os.path.join(root, name), "w", encoding="utf-8").close()
            for name in ("others", "others-1.0.dist-info"):
                os.mkdir(os.path.join(root, name))
            self.assertEqual(dunlin_zygote.own_names(root), {"app", "fast", "others"})


class AheadTests(GuestCase):
    """Which modules a function finds in a fork of a process that has loaded some of the library's ahead."""

    FORK = """import json, sys
sys.path.insert(0, {here!r})
import dunlin_zygote, dunlin_guest
sys.path.remove({here!r})
dunlin_zygote.note_what_is_ahead()
dunlin_guest.prepare({{"environment": {{"PYTHONPATH": {layer!r}}}, "root": {root!r}}})
{code}
"""

    def said(self, files, code, layer=None):
        """What a fork's code prints as JSON; the layer is a folder that the variables name."""
        root = self.folder(files)
        fork = self.FORK.format(here=os.path.dirname(BOOTSTRAP), root=root, layer=self.folder(layer or {}), code=code)
        ran = subprocess.run([PYTHON, "-S", "-s", "-X", "utf8", "-c", fork], stdout=subprocess.PIPE, check=True)
        return json.loads(ran.stdout)

    def test_modules_of_the_function_go_before_the_librarys(self):
        email = {"email.py": "def handler(event, context):\n    return 'own'\n"}
        load = "print(json.dumps(dunlin_guest.load_handler(%r)({}, None)))"
        for files, handler in (
            (email, "email.handler"),
            ({"calendar.py": email["email.py"]}, "calendar.handler"),
            ({"http/__init__.py": "", "http/h.py": email["email.py"]}, "http/h.handler"),
            ({"platform/__init__.py": email["email.py"]}, "platform.handler"),
            ({"app.py": "import email\nhandler = email.handler", **email}, "app.handler"),
        ):
            self.assertEqual(self.said(files, load % handler), "own", handler)
        self.assertEqual(self.said({"app.py": "import email\nhandler = email.handler"}, load % "app.handler", email), "own")

    def test_what_goes_on_with_the_librarys(self):
        uses = "import urllib.request, email.mine\nprint(json.dumps([urllib.request.http.client.__name__, email.mine.X]))"
        self.assertEqual(self.said({"email/__init__.py": "", "email/mine.py": "X = 1"}, uses), ["http.client", 1])
        parts = "import email\nprint(json.dumps([n for n in sys.modules if n.startswith('email.')]))"
        self.assertEqual(self.said({"email.py": ""}, parts), [])

    def test_others_stay_loaded(self):
        # No modules of these names, or none that Lambda's runtime has not loaded itself, or the interpreter's own.
        files = {name: "X = 1" for name in ("email/part.py", "http.txt", "calendar.json", "time.py", "json.py", "logging.py", "traceback.py")}
        names = "email email.parser http http.client calendar time json logging traceback".split()
        code = "print(json.dumps([n for n in %r if n not in sys.modules or hasattr(sys.modules[n], 'X')]))" % names
        self.assertEqual(self.said(files, code), [])
        none = "print(json.dumps(sorted(dunlin_guest.AHEAD)))"
        self.assertIn("email", self.said({}, none))
        self.assertEqual(set(self.said({}, none)) & {"os", "sys", "time", "json", "logging", "dunlin_guest", "dunlin_cache"}, set())


class ForkTests(unittest.TestCase):
    """What a zygote's copies have of their own."""

    def setUp(self):
        sys.path.insert(0, os.path.dirname(BOOTSTRAP))
        try:
            import dunlin_zygote
        finally:
            sys.path.pop(0)
        self.zygote = dunlin_zygote

    def copied(self):
        """What a copy says of itself."""
        import random
        import threading

        read, write = os.pipe()
        if self.zygote.copy_process() == 0:
            thread = threading.Thread(target=os.getpid)
            thread.start()
            thread.join()
            own = threading.main_thread().native_id == os.getpid()
            os.write(write, json.dumps([own, random.random()]).encode())
            os._exit(0)
        os.close(write)
        os.wait()
        with os.fdopen(read) as told:
            return json.load(told)

    def test_copies_have_a_number_and_random_numbers_of_their_own(self):
        first, second = self.copied(), self.copied()
        self.assertEqual([first[0], second[0]], [True, True])
        self.assertNotEqual(first[1], second[1])

    def test_who_wants_to_be_told_of_copies_is(self):
        told, mark = os.pipe()
        hooks = {"after_in_child": lambda: os.write(mark, b"told")}
        self.zygote.HOOKS.append(hooks)
        self.zygote.register_at_fork(**hooks)
        try:
            self.copied()
        finally:
            self.zygote.HOOKS.remove(hooks)
        self.assertEqual(os.read(told, 9), b"told")


class SnapshotTests(unittest.TestCase):
    """What goes on from a snapshot, in a process that is forked for the test."""

    def forked(self, act):
        """What `act` answers in a fork, as JSON."""
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(write, json.dumps(act()).encode())
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(pid, 0)
        with os.fdopen(read, "rb") as end:
            return json.loads(end.read())

    def setUp(self):
        sys.path.insert(0, os.path.dirname(BOOTSTRAP))
        try:
            import dunlin_snapshot
            import snapshot_restore_py
        finally:
            sys.path.pop(0)
        self.snapshot, self.hooks = dunlin_snapshot, snapshot_restore_py

    def test_hooks_run_in_their_order_with_their_arguments(self):
        order = []
        decorated = self.hooks.register_before_snapshot(lambda: order.append("before 1"))
        self.assertTrue(callable(decorated))
        self.hooks.register_before_snapshot(order.append, "before 2")
        self.hooks.register_after_restore(lambda word, ending: order.append(word + ending), "after", ending=" 1")
        self.hooks.register_after_restore(order.append, "after 2")
        self.snapshot.run_before_snapshot()
        self.snapshot.run_after_restore()
        self.assertEqual(order, ["before 2", "before 1", "after 1", "after 2"])

    def test_generators_of_libraries_begin_anew(self):
        def act():
            import random
            import types

            library = types.ModuleType("numpy.random")
            seeded = []
            library.seed = lambda: seeded.append(True)
            sys.modules["numpy.random"] = library
            random.seed(1)
            known = random.random()
            random.seed(1)
            self.snapshot.restore({"DUNLIN_OWN": "x"}, [])
            return [seeded, random.random() == known, os.environ["DUNLIN_OWN"]]

        self.assertEqual(self.forked(act), [[True], False, "x"])

    def test_a_function_s_own_modules_by_such_names_are_left_alone(self):
        def act():
            import types

            for name in ("random", "tempfile"):
                sys.modules[name] = types.ModuleType(name)
            self.snapshot.restore({}, [])
            return [hasattr(sys.modules["tempfile"], "_name_sequence")]

        self.assertEqual(self.forked(act), [False])

    def test_files_that_cannot_change_get_a_place_of_their_own_and_others_none(self):
        def act():
            libc = os.open("/usr/bin/env", os.O_RDONLY)
            os.lseek(libc, 4, os.SEEK_SET)
            way = self.snapshot.handle(libc)
            os.close(libc)
            self.snapshot.restore({}, [way])
            with tempfile.TemporaryFile() as own:
                return [os.lseek(libc, 0, os.SEEK_CUR), os.get_inheritable(libc), self.snapshot.handle(own.fileno())]

        self.assertEqual(self.forked(act), [4, False, None])


if __name__ == "__main__":
    unittest.main()
