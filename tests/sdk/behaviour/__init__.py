"""One suite of behaviour for every runtime.

`test_behaviour.py` has the checks, `table.py` the runtimes, `differences.py` what a runtime may do otherwise and who says so.
Each runtime has a file of its own here, and a program in `programs/` (the *probe*) that does what its event says:

| `do` | it |
|---|---|
| – | answers the event itself; one with `requestContext` it answers as HTTP, with the body as it came, in Base64 |
| `raise` | fails with `message` |
| `exit` / `signal` | ends its own process with `code` / by the signal `number` |
| `sleep` / `spin` / `allocate` | sleeps for `ms` / computes for ever / takes memory until there is none |
| `count` | answers `{who, calls}`: this environment's name, and how many calls it has had (`sleep` answers it too) |
| `environment` / `context` | answers its variables / `{id, name, version, memory, arn, group, stream, left, client}` |
| `print` | says each of `lines`, and "to stderr" where that is |
| `large` | answers a string of so many `bytes` |
| `files` | writes into /tmp and answers `{who, folder, notes, refused, data}` |

Before it fails, ends or never ends it says "at" and its environment's name.

The handler that is called `stream` answers "first ", waits for `ms`, and ends with "last". The variable `PROBE_INIT` makes the
initialisation `raise`, `exit` (with 5) or `hang`.
"""

import concurrent.futures
import fcntl
import functools
import hashlib
import json
import pathlib
import subprocess
import threading

from conftest import ROOT, clean_environment, wait_for
from test_invoke import invoke

PROGRAMS = pathlib.Path(__file__).parent / "programs"
KEPT = ROOT / ".cache/behaviour"
DATA = "of the package"
MINE = {"MINE": "mine", "SPOKEN": "ü☃🐦 = \"quoted\" 'twice'", "EMPTY": ""}


def source(name):
    """The text of a program."""
    return (PROGRAMS / name).read_text()


@functools.cache
def built(folder, command, made, **variables):
    """What a command makes of a folder, below `programs` if it has no other place; kept as long as the sources and the command
    stay the same."""
    files = sorted(path for path in (PROGRAMS / folder).rglob("*") if path.is_file())
    parts = [command.encode(), repr(variables).encode(), *(path.read_bytes() for path in files)]
    kept = KEPT / hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
    kept.mkdir(parents=True, exist_ok=True)
    with open(kept / "lock", "w") as lock:
        # Other workers wait here instead of building it too.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (kept / "program").exists():
            done = subprocess.run(
                command.format(out=kept / "made"), shell=True, cwd=PROGRAMS / folder, env=clean_environment(**variables),
                capture_output=True, text=True, check=False,
            )
            assert done.returncode == 0, f"{command}:\n{done.stderr}"
            (kept / "made" / made if made else kept / "made").rename(kept / "program")
    return (kept / "program").read_bytes()


def http_stream(ms):
    """The event of a request that is answered by a stream, for what listens to HTTP."""
    headers, context = {"content-type": "application/json"}, {"http": {"method": "POST"}}
    return {"version": "2.0", "rawPath": "/stream", "headers": headers, "requestContext": context, "body": json.dumps({"ms": ms})}


class Runtime:
    """A runtime and what its functions say of themselves. What differs for good reason is in `differences.py`."""

    name = ""
    runtime = "provided.al2023"
    handler = "probe"
    # What makes the handler that streams.
    streaming = {"Handler": "stream"}
    memory = 256
    # The fixture of its server.
    server = "dev"
    # Variables beside those of the checks.
    variables = {}
    # Where the program begins.
    folder = "/var/task"
    # What an exit with 3 is reported as.
    exit_status = 3
    # `AWS_EXECUTION_ENV`, if there is one.
    execution_env = None
    # What its errors are called, and the name of their trace.
    error_type = "ProbeError"
    trace = "stackTrace"
    # What the init that raises is called.
    init_error_type = "ProbeError"
    # What half of a pair of surrogates becomes, as JSON.
    surrogate = b'"\\ud800"'
    # What no memory is called in the answer.
    out_of_memory = ("Runtime.ExitError", "Runtime exited with error: signal: killed")
    # What an init that does not end is answered with.
    init_hangs = "Task timed out after 1.00 seconds"
    # What spends all of its time.
    busy = {"do": "spin"}

    def missing(self):
        """Why it cannot be tested on this machine."""

    def files(self):
        """Its package."""
        raise NotImplementedError

    def create(self, server, **settings):
        """A function; its name."""
        settings.setdefault("MemorySize", self.memory)
        arguments = {"runtime": self.runtime, "handler": settings.pop("Handler", self.handler)}
        return server.function({"data.txt": DATA, **self.files()}, **arguments, **settings)

    def lost(self, server):
        """A function that has no entry point; then the type and words of its error."""
        raise NotImplementedError

    @property
    def told_handler(self):
        """`_HANDLER`."""
        return self.handler

    def stream_event(self, ms):
        """What makes it stream."""
        return {"do": "stream", "ms": ms}

    def streamed_whole(self, answer):
        """What was streamed, to one that takes no streams."""
        return answer["body"].decode()

    def error(self, message, request_id):
        """The document of an error that the program raises, but for its trace."""
        return {"errorType": self.error_type, "errorMessage": message}


class Custom(Runtime):
    """A runtime that is a program in the package."""

    def program(self):
        """Its bytes."""
        raise NotImplementedError

    def files(self):
        return {"bootstrap": (self.program(), 0o755)}

    def lost(self, server):
        return server.function({"a": "b"}, runtime=self.runtime, handler="x"), "Runtime.InvalidEntrypoint", "bootstrap"


class Probe:
    """The functions of one runtime on a server, each made when it is first called."""

    CASES = {
        "usual": {"Timeout": 20, "Environment": MINE},
        "short": {"Timeout": 1},
        "json": {"Timeout": 20, "LoggingConfig": {"LogFormat": "JSON"}},
        # How long an init takes on a busy machine is not what these are about.
        "raise": {"Timeout": 60, "Environment": {"PROBE_INIT": "raise"}},
        "exit": {"Timeout": 60, "Environment": {"PROBE_INIT": "exit"}},
        "hang": {"Timeout": 1, "Environment": {"PROBE_INIT": "hang"}},
        "stream": {"Timeout": 20},
        "many": {"Timeout": 20},
    }

    def __init__(self, runtime, server):
        self.runtime, self.server, self.names, self.renewed = runtime, server, {}, 0
        self.lambdas = server.client("lambda")
        self.making = threading.Lock()
        self.pool = concurrent.futures.ThreadPoolExecutor(1)
        # An init may take ten seconds, during which other checks run.
        self.hanging = self.pool.submit(self.call, {"do": "count"}, "hang", LogType="Tail")

    def function(self, case="usual"):
        """The function of a case; its name."""
        with self.making:
            if case not in self.names:
                settings = dict(self.CASES[case])
                more = dict(self.runtime.streaming) if case == "stream" else {}
                variables = settings.pop("Environment", {}) | self.runtime.variables | more.pop("Environment", {})
                self.names[case] = self.runtime.create(self.server, Environment={"Variables": variables}, **settings, **more)
                self.wait(self.names[case])
            return self.names[case]

    def wait(self, name):
        """Until the last change of a function is done."""
        wait_for(lambda: self.lambdas.get_function(FunctionName=name)["Configuration"]["State"] != "Pending", "an active function", 120)

    def call(self, event, case="usual", **arguments):
        """One call of a function with this event."""
        payload = json.dumps(event, ensure_ascii=False).encode()
        return invoke(self.server, self.function(case), Payload=payload, **arguments)

    def ask(self, what, case="usual", **more):
        """What the function answers when it is to do this."""
        answer = self.call({"do": what, **more}, case)
        assert "FunctionError" not in answer, answer["json"]
        return answer["json"]

    def renew(self, case="usual"):
        """Lets the next call need a new environment."""
        self.renewed += 1
        self.lambdas.update_function_configuration(FunctionName=self.function(case), Description=f"renewed {self.renewed}")
        self.wait(self.function(case))

    def here(self, case="usual", at_once=3):
        """The environments that answer when several calls come at once."""
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            answers = list(pool.map(lambda _: self.call({"do": "sleep", "ms": 100}, case), range(at_once)))
        # A function with little time may need more of it on a busy machine.
        found = {answer["json"]["who"] for answer in answers if "FunctionError" not in answer}
        assert found, answers
        return found

    def finds(self, who):
        """Whether this environment still answers. More calls at once than there are environments reach all of them."""
        return any(who in self.here(at_once=calls) for calls in (*range(2, 12), 16, 24, 32))

    def close(self):
        """Waits for what runs in the background."""
        self.pool.shutdown()
