"""The managed Python guest: it loads one handler and answers invocations, one at a time.

It speaks the frames of `crates/compute/src/guest_protocol.rs` on descriptor 3, by blocking reads and writes. Runs on
CPython 3.8 and later, with the standard library only.

Invariants
  1. Every INVOKE is answered by exactly one RESPONSE or ERROR, or the process ends.
  2. Nothing but frames is written to descriptor 3; nothing of the guest's own goes to the output, log lines apart.
  3. A module of the function's, or of a layer, goes before one of the standard library, unless the runtime has loaded that.
  4. At the start only `json`, `os`, `sys` and `time` are imported: a cold start pays for every module. `logging` is
     set up when the function's code first imports it, which no code can tell from having it set up before.

Start reading at `main`. The order is: channel, errors, logs, loading, context, invocation. Beside it: `bootstrap.py`
starts it, `dunlin_logs.py` makes the formats of `logging`, `dunlin_cache.py` keeps bytecode, `dunlin_snapshot.py` goes on
from snapshots.
"""

import json
import os
import sys
import time

CHANNEL = 3
HERE = os.path.dirname(os.path.abspath(__file__))
LOAD, INVOKE, COMPILE = 1, 2, 4
BOOTED, READY, INIT_ERROR, RESPONSE, ERROR = 15, 16, 17, 18, 19
BEGIN, CHUNK, END, READ, UNFIT = 20, 21, 22, 24, 25
# The channel keeps the bounds of writes: none is longer, and every read has room for one.
MESSAGE_BYTES = 32 * 1024
# 6 MiB, and what Lambda allows beyond.
PAYLOAD_BYTES_MAX = 6291556
JSON_PREFIX = len(b"application/json").to_bytes(4, "little") + b"application/json"
BYTES_PREFIX = len(b"application/unknown").to_bytes(4, "little") + b"application/unknown"
# These runtimes write characters beyond ASCII as they are; earlier ones escape them.
ESCAPING_RUNTIMES = {"python3.%d" % minor for minor in range(6, 12)}
TRACE_ID = "_X_AMZN_TRACE_ID"
NO_BREAK_SPACE = "\u00a0"


# Channel


def read_exactly(first, count):
    """`count` bytes, of which `first` are already there; nothing when the platform has closed the channel."""
    if len(first) >= count:
        return first
    buffer = bytearray(count)
    buffer[: len(first)] = first
    view = memoryview(buffer)
    have = len(first)
    while have < count:
        try:
            got = os.readv(CHANNEL, [view[have:]])
        except BlockingIOError:
            wait_for(0)
            continue
        except ConnectionResetError:
            return None
        if got == 0:
            return None
        have += got
    return buffer


class Reader:
    """Takes frames off the channel; a small frame comes with one read."""

    def __init__(self):
        self.rest = b""

    def frame(self):
        """The next frame's kind and body, or nothing when the platform has closed the channel."""
        data = self.rest
        while len(data) < 5:
            try:
                more = os.read(CHANNEL, 65536)
            except BlockingIOError:
                wait_for(0)
                continue
            except ConnectionResetError:
                return None
            if not more:
                return None
            data = data + more if data else more
        end = 4 + int.from_bytes(data[:4], "little")
        self.rest = data[end:]
        data = read_exactly(data[:end], end)
        if data is None:
            return None
        return data[4], memoryview(data)[5:]


def wait_for(direction):
    """Waits until the channel can be read (0) or written (1): for a channel that somebody made non-blocking."""
    import select

    lists = ([CHANNEL], []) if direction == 0 else ([], [CHANNEL])
    select.select(lists[0], lists[1], [])


def send(kind, *parts):
    """Writes one frame, in messages of at most `MESSAGE_BYTES`."""
    body = b"".join(parts)
    frame = b"".join(((len(body) + 1).to_bytes(4, "little"), bytes((kind,)), body))
    rest = memoryview(frame) if len(frame) > MESSAGE_BYTES else frame
    while rest:
        try:
            rest = rest[os.write(CHANNEL, rest[:MESSAGE_BYTES]) :]
        except BlockingIOError:
            wait_for(1)


# Errors


class Fault(Exception):
    """An error that the guest itself raises, with Lambda's type and words."""

    def __init__(self, kind, message, trace=None):
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.trace = trace or []


def document(kind, message, trace, request_id):
    """The error document that callers receive."""
    return {"errorMessage": message or "", "errorType": kind, "requestId": request_id or "", "stackTrace": trace}


def document_of(error, request_id):
    """The error document of anything that was raised. What the function's own code raises meanwhile, an exit too, is no end of the
    process: that it failed is what there is to say."""
    if isinstance(error, Fault):
        return document(error.kind, error.message, error.trace, request_id)
    kind = name_of(type(error))
    try:
        message = str(error)
    except BaseException as second:  # pylint: disable=broad-except
        message = "the error's text cannot be made: %s" % name_of(type(second))
    try:
        trace = stack_trace(error)
    except BaseException:  # pylint: disable=broad-except
        # Lines of source come from the loader of their module, which may be the function's.
        trace = []
    return document(kind, message, trace, request_id)


def name_of(kind):
    """The name of a class, whatever its own class says."""
    return type.__dict__["__name__"].__get__(kind)


def stack_trace(error):
    """The lines of a traceback, without the guest's own frames at its beginning."""
    import traceback

    frames = list(traceback.extract_tb(error.__traceback__))
    for index, frame in enumerate(frames):
        if os.path.dirname(frame.filename) != HERE and not frame.filename.startswith("<frozen importlib"):
            return traceback.format_list([(f.filename, f.lineno, f.name, f.line) for f in frames[index:]])
    return []


def encode_document(error_document):
    """A document as bytes, never longer than a payload may be."""
    data = json.dumps(error_document).encode()
    if len(data) > PAYLOAD_BYTES_MAX:
        data = TOO_LARGE
    return data


# An answer that is longer than a payload may be: it is the platform that refuses it, for every runtime in the same words.
TOO_LARGE_TYPE = "Function.ResponseSizeTooLarge"
TOO_LARGE_WORDS = "Response payload size exceeded maximum allowed payload size (%d bytes)." % PAYLOAD_BYTES_MAX
TOO_LARGE = json.dumps({"errorType": TOO_LARGE_TYPE, "errorMessage": TOO_LARGE_WORDS}).encode()


# Logs

# Before a record: ends the line that was begun, if there is one (`crates/compute/src/output.rs`).
RECORD_MARK = "\x1e\n"


class Logs:
    """Log lines in Lambda's formats, and the set-up of `logging` when the function first imports it."""

    def __init__(self):
        self.request_id = None
        self.tenant_id = None
        self.handler = None
        self.configure()

    def configure(self):
        """Goes by the variables as they are now."""
        self.json = os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON"
        level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
        self.level = "DEBUG" if level == "TRACE" else level

    def write(self, text):
        """Writes one log event, however many lines it has. It goes where `print` writes to, so that the order is kept, but to the
        log also where the function has something else in that place."""
        text = text[:-1] if text.endswith("\n") else text
        if "\n" in text:
            text = text.replace("\r\n", "\n").replace("\n", "\r")
        text = RECORD_MARK + text + "\n"
        if sys.stdout is not sys.__stdout__:
            flush()
        try:
            sys.__stdout__.write(text)
            sys.__stdout__.flush()
        except (AttributeError, ValueError):
            # The function has closed it, or taken what is below it.
            write_output(text.encode("utf-8", "backslashreplace"))

    def failure(self, error_document):
        """The log event of a failed init or invocation."""
        if self.json:
            record = {"timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "level": "ERROR"}
            record.update(error_document)
            self.write(json.dumps(record, ensure_ascii=False) + "\n")
            return
        lines = ["[ERROR] %s: %s" % (error_document["errorType"], error_document["errorMessage"])]
        lines.append("Traceback (most recent call last):")
        for entry in error_document["stackTrace"]:
            for line in entry.splitlines():
                text = line.lstrip(" ")
                lines.append(NO_BREAK_SPACE * (len(line) - len(text)) + text)
        self.write("\r".join(lines) + "\n")

    def install(self):
        """Has `logging` set up on its first import, or now if something has imported it already; where a zygote has done that,
        only what the variables say is left to do."""
        if self.handler:
            self.configure()
            if self.json or self.level:
                own_module("dunlin_logs").adjust(self)
        elif "logging" in sys.modules:
            self.set_up()
        else:
            sys.meta_path.insert(0, LoggingFinder(self))

    def set_up(self):
        """Gives the root logger Lambda's handler."""
        own_module("dunlin_logs").set_up(self)


def write_output(data):
    """Writes straight to the output; a log that nobody can have any more does not end the function."""
    try:
        while data:
            data = data[os.write(1, data) :]
    except OSError:
        pass


class LoggingFinder:
    """Finds `logging` as the interpreter would, and sets it up after it was run. It removes itself at once."""

    def __init__(self, logs):
        self.logs = logs

    def find_spec(self, name, path=None, target=None):
        """The import system's question."""
        if name != "logging":
            return None
        import importlib.machinery

        sys.meta_path.remove(self)
        # The runtime's own handler needs the library's, whatever the function has.
        spec = importlib.machinery.PathFinder.find_spec(name, [LIBRARY])
        loader, logs = spec.loader, self.logs
        run = loader.exec_module

        def exec_module(module):
            run(module)
            logs.set_up()

        loader.exec_module = exec_module
        return spec


# What a zygote has set up for its forks.
LOGS = None

# Top-level names that a zygote has loaded from the standard library, and a runtime without one would not.
AHEAD = set()
LIBRARY = os.path.dirname(os.__file__)


# Loading


def own_module(name):
    """A module of the guest's own that is not needed at every start."""
    sys.path.insert(0, HERE)
    try:
        return __import__(name)
    finally:
        sys.path.remove(HERE)


class HooksFinder:
    """Finds, after all others, the module by which functions register their hooks of snapshots."""

    def find_spec(self, name, path=None, target=None):
        """The import system's question."""
        if name != "snapshot_restore_py":
            return None
        import importlib.util

        return importlib.util.spec_from_file_location(name, os.path.join(HERE, name + ".py"))


def prepare(order):
    """Makes the environment of LOAD take effect: variables, folder, module paths, output."""
    os.environ.update(order["environment"])
    if hasattr(time, "tzset"):
        time.tzset()
    root = order["root"]
    os.chdir(root)
    version = "python%d.%d" % sys.version_info[:2]
    packs = "/var/runtime/%s/site-packages" % version
    layers = ["/opt/python/lib/%s/site-packages" % version, "/opt/python", packs, "/var/runtime"]
    named = os.environ.get("PYTHONPATH", "").split(":")
    paths = [root]
    for entry in [entry for entry in named if entry not in layers] + layers + sys.path:
        if entry and entry != HERE and entry not in paths:
            paths.append(entry)
    sys.path[:] = paths
    # A fork may find those of its zygote.
    if order.get("caches") or "dunlin_cache" in sys.modules:
        own_module("dunlin_cache").use(order.get("caches") or [])
    if not any(isinstance(finder, HooksFinder) for finder in sys.meta_path):
        sys.meta_path.append(HooksFinder())
    forget_finders()
    if AHEAD:
        # What the platform adds has no such names, and most functions have no layers: to look for nothing takes its time too.
        make_way(paths if os.path.isdir("/opt/python") else [path for path in paths if path not in layers])
    define_exit()
    # Lines appear when they are written, also where the output is a pipe.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)


def forget_finders():
    """Has the import system look anew where something may be now that was not there before: code, layers and what the platform
    adds are mounted later than an interpreter starts. Its own modules stay what they are, and a fork has them from before."""
    own = sys.base_prefix + "/"
    for place in [place for place in sys.path_importer_cache if not place.startswith(own)]:
        del sys.path_importer_cache[place]


def make_way(paths):
    """Forgets what was loaded ahead where the function or a layer has a module of that name, as their folders come before the
    library's. Who holds such a module already goes on with it. The few names to ask about are those in the lists of the folders that
    the import system makes for itself: the next import finds them made."""
    find_spec = sys.modules["_frozen_importlib_external"].PathFinder.find_spec
    # The library's first path may be that of an archive.
    paths = [path for path in paths if not path.startswith(os.path.dirname(LIBRARY) + "/python3")]
    find_spec("no module", paths)
    names = set()
    for finder in filter(None, map(sys.path_importer_cache.get, paths)):
        listed = getattr(finder, "_path_cache", AHEAD)
        names.update(AHEAD.intersection([entry.partition(".")[0] for entry in listed]))
    for name in names:
        spec = find_spec(name)
        # A folder alone is no module where the library has one of the name.
        if spec and spec.loader and spec.origin != getattr(sys.modules.get(name), "__file__", None):
            AHEAD.discard(name)
            for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == name]:
                del sys.modules[loaded]


def define_exit():
    """Defines what `site` would have: the interpreter is started without."""
    import builtins

    if not hasattr(builtins, "exit"):
        import _sitebuiltins

        for name in ("exit", "quit"):
            setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))


def load(order, logs):
    """The function that LOAD names. With an error of its module's, the process ends."""
    try:
        handler = load_handler(order.get("wrapped") and os.environ.get("_HANDLER") or order["handler"])
        if order.get("hooks"):
            # Without a snapshot there is nothing between the two.
            hooks = own_module("dunlin_snapshot")
            hooks.run_before_snapshot()
            hooks.run_after_restore()
        return handler
    except Exception as error:  # pylint: disable=broad-except
        fail_init(error, logs)


def fail_init(error, logs):
    """Logs and sends why the function cannot be initialised, and ends."""
    error_document = document_of(error, "")
    logs.failure(error_document)
    flush()
    send(INIT_ERROR, encode_document(error_document))
    sys.exit(1)


def load_handler(name):
    """The function that a handler string names."""
    module_name, dot, function_name = name.rpartition(".")
    if not dot:
        words = "Bad handler '%s': not enough values to unpack (expected 2, got 1)" % name
        raise Fault("Runtime.MalformedHandlerName", words)
    if module_name.split(".")[0] in sys.builtin_module_names:
        words = "Cannot use built-in module %s as a handler module" % module_name
        raise Fault("Runtime.BuiltInModuleConflict", words)
    module = import_module(module_name)
    try:
        return getattr(module, function_name)
    except AttributeError:
        words = "Handler '%s' missing on module '%s'" % (function_name, module_name)
        raise Fault("Runtime.HandlerNotFound", words) from None


def import_module(module_name):
    """Imports the handler's module; Lambda's types for what goes wrong."""
    import importlib

    try:
        return importlib.import_module(module_name.replace("/", "."))
    except ImportError as error:
        words = "Unable to import module '%s': %s" % (module_name, error)
        raise Fault("Runtime.ImportModuleError", words) from error
    except SyntaxError as error:
        words = "Syntax error in module '%s': %s" % (module_name, error)
        trace = ['  File "%s" Line %s\n    %s' % (error.filename, error.lineno, error.text)]
        raise Fault("Runtime.UserCodeSyntaxError", words, trace) from error


# Context


def record(class_name, fields):
    """A small class with these attributes, all None at first."""

    def __init__(self, values=None):
        for field in fields:
            setattr(self, field, (values or {}).get(field))

    def __repr__(self):
        return "%s([%s])" % (class_name, ",".join("%s=%s" % (field, getattr(self, field)) for field in fields))

    return type(class_name, (), {"__slots__": fields, "__init__": __init__, "__repr__": __repr__})


CognitoIdentity = record("CognitoIdentity", ("cognito_identity_id", "cognito_identity_pool_id"))
Client = record(
    "Client", ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")
)
ClientContext = record("ClientContext", ("custom", "env", "client"))


class LambdaContext:
    """What a handler receives as its second argument."""

    def __init__(self, meta, fixed, logs):
        self.aws_request_id = meta["requestId"]
        self.__dict__.update(fixed)
        self.invoked_function_arn = meta.get("functionArn")
        self.tenant_id = meta.get("tenantId")
        self.client_context = None
        if "clientContext" in meta:
            self.client_context = ClientContext(parsed(meta["clientContext"], "Client Context"))
            if self.client_context.client is not None:
                self.client_context.client = Client(self.client_context.client)
        self.identity = CognitoIdentity()
        if "identity" in meta:
            identity = parsed(meta["identity"], "Cognito Identity") or {}
            self.identity.cognito_identity_id = identity.get("cognitoIdentityId")
            self.identity.cognito_identity_pool_id = identity.get("cognitoIdentityPoolId")
        self._epoch_deadline_time_in_ms = meta["deadlineMs"]
        self._logs = logs

    def get_remaining_time_in_millis(self):
        """Milliseconds until the invocation is ended, never below 0."""
        return max(0, self._epoch_deadline_time_in_ms - int(time.time() * 1000))

    def log(self, message):
        """Writes one event to the log, as it is."""
        self._logs.write(str(message))

    def __repr__(self):
        shown = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return "LambdaContext([%s])" % ",".join("%s=%s" % pair for pair in shown.items())


def fixed_context():
    """The part of the context that is the same for every invocation."""
    return {
        "log_group_name": os.environ.get("AWS_LAMBDA_LOG_GROUP_NAME"),
        "log_stream_name": os.environ.get("AWS_LAMBDA_LOG_STREAM_NAME"),
        "function_name": os.environ.get("AWS_LAMBDA_FUNCTION_NAME"),
        "memory_limit_in_mb": os.environ.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE"),
        "function_version": os.environ.get("AWS_LAMBDA_FUNCTION_VERSION"),
    }


def parsed(value, name):
    """The platform may hand JSON text on as it came, or the value."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        words = "Unable to parse %s JSON: %s" % (name, error)
        raise Fault("Runtime.LambdaContextUnmarshalError", words) from error


# Invocation


class Encoder:
    """A handler's result as JSON: decimals become numbers, exactly."""

    def __init__(self):
        runtime = os.environ.get("AWS_EXECUTION_ENV", "").replace("AWS_Lambda_", "")
        if not runtime.startswith("python"):
            runtime = "python%d.%d" % sys.version_info[:2]
        self.ascii = runtime in ESCAPING_RUNTIMES
        self.fast = json.JSONEncoder(ensure_ascii=self.ascii, default=self.default)

    def default(self, value):
        """Called for what JSON has no words for."""
        # A decimal can only be there if the function's code has imported the module.
        decimal = sys.modules.get("decimal")
        if decimal is not None and isinstance(value, decimal.Decimal):
            raise HasDecimals
        raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)

    def encode(self, value):
        """The result's JSON as bytes."""
        try:
            text = self.fast.encode(value)
        except HasDecimals:
            text = self.encode_with_decimals(value)
        return text.encode("utf-8", "surrogatepass" if self.ascii else "strict")

    def encode_with_decimals(self, value):
        """Writes decimals under unguessable marks first, then puts their digits in the marks' places."""
        decimal = sys.modules["decimal"]
        mark = os.urandom(16).hex()
        numbers = []

        def default(item):
            if not isinstance(item, decimal.Decimal):
                return self.default(item)
            numbers.append("NaN" if item.is_nan() else str(item))
            return "%s:%d" % (mark, len(numbers) - 1)

        text = json.JSONEncoder(ensure_ascii=self.ascii, default=default).encode(value)
        pieces = text.split('"%s:' % mark)
        result = [pieces[0]]
        for number, piece in zip(numbers, pieces[1:]):
            result.append(number)
            result.append(piece[piece.index('"') + 1 :])
        return "".join(result)


class HasDecimals(Exception):
    """The value holds a decimal: it takes the slower way."""


def run(handler, meta, event_bytes, fixed, encoder, logs):
    """Runs one invocation and sends its answer."""
    request_id = meta["requestId"]
    began_ns = time.monotonic_ns()
    try:
        context = LambdaContext(meta, fixed, logs)
        try:
            event = json.loads(str(event_bytes, "utf-8")) if len(event_bytes) else {}
        except ValueError as error:
            raise Fault("Runtime.UnmarshalError", "Unable to unmarshal input: %s" % error) from error
        result = handler(event, context)
        if isinstance(result, bytes):
            prefix, data = BYTES_PREFIX, result
        else:
            prefix, data = JSON_PREFIX, marshal(encoder, result)
    except Exception as error:  # pylint: disable=broad-except
        answer_error(document_of(error, request_id), logs)
        return
    if len(data) > PAYLOAD_BYTES_MAX:
        logs.failure(document(TOO_LARGE_TYPE, TOO_LARGE_WORDS, [], request_id))
        flush()
        send(ERROR, TOO_LARGE)
    else:
        flush()
        took_us = min((time.monotonic_ns() - began_ns) // 1000, 0xFFFFFFFF)
        send(RESPONSE, took_us.to_bytes(4, "little"), prefix, data)


def marshal(encoder, result):
    """The result's JSON, or Lambda's error for a result that has none."""
    try:
        return encoder.encode(result)
    except Exception as error:
        raise Fault("Runtime.MarshalError", "Unable to marshal response: %s" % error) from error


def answer_error(error_document, logs):
    """Logs and sends an error."""
    logs.failure(error_document)
    flush()
    send(ERROR, encode_document(error_document))


def flush():
    """What was printed is out before the answer is."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError, AttributeError):
            # The function has closed or replaced it.
            pass


def serve(reader, handler, logs):
    """Answers invocations until the platform closes the channel."""
    encoder = Encoder()
    fixed = fixed_context()
    traced = TRACE_ID in os.environ
    while True:
        frame = reader.frame()
        if frame is None:
            return
        kind, body = frame
        if kind != INVOKE:
            raise ValueError("unexpected frame of kind %d" % kind)
        meta_end = 4 + int.from_bytes(body[:4], "little")
        meta = json.loads(str(body[4:meta_end], "utf-8"))
        logs.request_id = meta["requestId"]
        logs.tenant_id = meta.get("tenantId")
        trace_id = meta.get("traceId")
        if trace_id:
            os.environ[TRACE_ID] = trace_id
        elif traced:
            os.environ.pop(TRACE_ID, None)
        traced = bool(trace_id)
        run(handler, meta, body[meta_end:], fixed, encoder, logs)


def boot(meanwhile=None):
    """Says that this process is up: the reader of the channel, and the first order with its kind, if one comes. `meanwhile`: what
    to do until then."""
    os.set_inheritable(CHANNEL, False)
    send(BOOTED)
    if meanwhile:
        meanwhile()
    reader = Reader()
    frame = reader.frame()
    return (reader, frame[0], json.loads(str(frame[1], "utf-8"))) if frame else (reader, None, None)


def main(meanwhile=None):
    """Boots, loads and serves."""
    reader, kind, order = boot(meanwhile)
    if kind is None:
        return
    if kind == COMPILE:
        send(BEGIN)
        own_module("dunlin_cache").make(order, lambda piece: send(CHUNK, piece))
        send(END)
        return
    load_and_serve(order, reader)


def load_and_serve(order, reader):
    """Becomes the function of LOAD."""
    if order.get("wrapped"):
        customize()
    prepare(order)
    logs = LOGS or Logs()
    logs.install()
    handler = load(order, logs)
    send(READY)
    serve(reader, handler, logs)


def customize():
    """Runs what `site` would have, from where it would be found: by PYTHONPATH, in which wrappers put such a module."""
    try:
        import sitecustomize  # pylint: disable=import-error,import-outside-toplevel,unused-import
    except ImportError as error:
        if error.name != "sitecustomize":
            customize_failed(error)
    except Exception as error:  # pylint: disable=broad-except
        customize_failed(error)


def customize_failed(error):
    """A function goes on without, as `site` has it."""
    print("Error in sitecustomize: %s: %s" % (type(error).__name__, error), file=sys.stderr, flush=True)


def resume(handler, logs, handles, collects):
    """Serves as a fork of a process that has loaded the handler: `main` from there on. `collects`: whether the function left
    the collection of garbage on."""
    reader, kind, order = boot()
    if kind is None:
        return
    snapshot = own_module("dunlin_snapshot")
    try:
        os.chdir(order["root"])
        snapshot.restore(order["environment"], handles)
        if not collects:
            sys.modules["gc"].disable()
        snapshot.run_after_restore()
    except Exception as error:  # pylint: disable=broad-except
        fail_init(error, logs)
    send(READY)
    serve(reader, handler, logs)

