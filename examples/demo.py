#!/usr/bin/env python3
"""The demonstration behind `make demo`: from nothing to a durable, metered function behind HTTP.

Starts Dunlin in a temporary folder on a free port, deploys `examples/items-api`, posts an item, reads it back with an AWS
SDK, kills the server, starts it again, calls once more. Ends with 0 only if all of that held. Needs Python 3.8 and Node.js
with npm; installs boto3 into a folder of its own under `.cache`.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BOLD, PLAIN = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")


def title(text):
    print(f"\n{BOLD}{text}{PLAIN}", flush=True)


def check(holds, what):
    if not holds:
        raise SystemExit(f"demo failed: {what}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """One run of `dunlin dev` on a data folder."""

    def __init__(self, program, folder, port):
        self.endpoint = f"http://127.0.0.1:{port}"
        started = time.monotonic()
        command = [program, "dev", "--listen", f"127.0.0.1:{port}", "--data-dir", str(folder / "data")]
        self.log = open(folder / "server.log", "ab")
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        while not self.healthy():
            if self.process.poll() is not None or time.monotonic() - started > 30:
                sys.stderr.write((folder / "server.log").read_text(errors="replace"))
                raise SystemExit("demo failed: the server did not start")
            time.sleep(0.005)
        self.ready_ms = (time.monotonic() - started) * 1000

    def healthy(self):
        try:
            with urllib.request.urlopen(self.endpoint + "/_dunlin/health", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def end(self, how):
        self.process.send_signal(how)
        self.process.wait(timeout=30)


def post(url, document):
    body = json.dumps(document).encode()
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    started = time.perf_counter()
    with urllib.request.urlopen(request, timeout=60) as answer:
        text = answer.read().decode()
        status = answer.status
    return status, text, (time.perf_counter() - started) * 1000


def sdk():
    """boto3, from the environment or installed beside the project."""
    try:
        import boto3

        return boto3
    except ImportError:
        pass
    folder = ROOT / ".cache" / "demo-python"
    if not (folder / "boto3").is_dir():
        title("Installing boto3, to read the item back with an AWS SDK")
        base = [sys.executable, "-m", "pip"]
        if subprocess.run(base + ["--version"], capture_output=True).returncode != 0:
            venv = ROOT / ".cache" / "demo-venv"
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            base = [str(venv / "bin" / "python"), "-m", "pip"]
        subprocess.run(base + ["install", "-q", "--disable-pip-version-check", "--target", str(folder), "boto3"], check=True)
    sys.path.insert(0, str(folder))
    import boto3

    return boto3


def client(service, endpoint):
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
    return sdk().client(service, endpoint_url=endpoint, region_name="us-east-1", **keys)


def read_item(endpoint, item):
    answer = client("dynamodb", endpoint).get_item(TableName="ExampleTable", Key={"id": {"S": item}})
    return answer.get("Item")


def main(program, folder):
    port = free_port()
    environment = {**os.environ, "DUNLIN_ENDPOINT": f"http://127.0.0.1:{port}"}
    # The demo speaks to its own server, whatever the shell points to.
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        environment.pop(name, None)
        os.environ.pop(name, None)

    def dunlin(*arguments):
        done = subprocess.run([program, *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        check(done.returncode == 0, f"dunlin {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done

    title("1. Start Dunlin in a temporary folder")
    server = Server(program, folder, port)
    print(f"ready in {server.ready_ms:.0f} ms at {server.endpoint}")
    try:
        title("2. Deploy examples/items-api: TypeScript, aws-sdk version 2, a table, an HTTP route")
        done = dunlin("deploy", str(ROOT / "examples" / "items-api"), "--json")
        print(done.stderr.strip())
        deployed = json.loads(done.stdout)
        url, function = deployed["url"], deployed["functions"][0]
        print(url)

        title("3. Post an item, twice: a cold call and a warm one")
        status, text, cold_ms = post(url, {"id": "first", "data": {"colour": "grey"}})
        print(status, text)
        check(status == 200, "the cold call did not answer 200")
        warm = []
        for number in range(20):
            status, text, ms = post(url, {"id": f"warm-{number}", "data": number})
            check(status == 200, "a warm call did not answer 200")
            warm.append(ms)
        warm_ms = sorted(warm)[len(warm) // 2]
        print(f"cold {cold_ms:.0f} ms, warm {warm_ms:.1f} ms (median of {len(warm)}, each with a durable write)")

        title("4. Read it back with an AWS SDK")
        item = read_item(server.endpoint, "first")
        print(item)
        check(item is not None and item["id"]["S"] == "first", "the item is not in the table")

        title("5. kill -9 the server, start it again")
        server.end(signal.SIGKILL)
        server = Server(program, folder, port)
        print(f"ready again in {server.ready_ms:.0f} ms")
        check(read_item(server.endpoint, "first") == item, "the item did not survive")
        status, text, _ = post(url, {"id": "second", "data": 2})
        print(status, text)
        check(status == 200, "the call after the restart did not answer 200")
        check(read_item(server.endpoint, "second") is not None, "the second item is not in the table")

        title("6. The log")
        deadline = time.monotonic() + 10
        while True:
            log = dunlin("logs", function).stdout
            if log.count("REPORT RequestId") >= 2 + len(warm) or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        print("\n".join(log.splitlines()[-4:]))
        check("REPORT RequestId" in log, "the log has no REPORT line")

        title("7. The cost")
        print(dunlin("bill").stdout.strip())
        bill = json.loads(dunlin("bill", "--json").stdout)
        requests = sum(row["requests"] for row in bill["functions"])
        check(requests == 2 + len(warm), f"{requests} calls are metered, {2 + len(warm)} were made")
    finally:
        if server.process.poll() is None:
            server.end(signal.SIGTERM)

    title("All of that held. Start your own:")
    shown = os.path.relpath(program, os.getcwd())
    print(f"  {shown} dev                           # data in ./.dunlin, http://localhost:4566")
    print(f"  {shown} deploy examples/items-api     # in another terminal")


if __name__ == "__main__":
    check(len(sys.argv) == 2, "usage: demo.py PROGRAM")
    place = pathlib.Path(tempfile.mkdtemp(prefix="dunlin-demo-"))
    try:
        main(str(pathlib.Path(sys.argv[1]).resolve()), place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
