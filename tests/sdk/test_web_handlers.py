"""Web-standard handlers of Node.js behind function URLs, an HTTP API and a REST API."""

import time

import requests

from conftest import NODE, wait_for
from test_apis import rest_api
from test_streaming import lines

HANDLER = """
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export default {
  async fetch(request, env, ctx) {
    const url = new URL(request.url);
    if (url.pathname === '/later') ctx.waitUntil(sleep(700).then(() => console.log('after the answer')));
    if (url.pathname === '/stream') {
      const parts = ['first ', 'last'];
      return new Response(new ReadableStream({
        async pull(controller) {
          if (parts.length === 0) return controller.close();
          if (parts.length === 1) await sleep(1500);
          controller.enqueue(new TextEncoder().encode(parts.shift()));
        },
      }));
    }
    const body = request.body ? await request.text() : null;
    return Response.json({ method: request.method, path: url.pathname, q: url.searchParams.getAll('q'), body, host: url.host,
      function: env.AWS_LAMBDA_FUNCTION_NAME }, { status: 201, headers: { 'set-cookie': 'a=1', 'x-own': 'yes' } });
  },
};
"""


def test_behind_every_front(dev):
    name = dev.function({"handler.mjs": HANDLER}, runtime=NODE, handler="handler.default", Timeout=20)
    apis = dev.client("apigatewayv2")
    arn = dev.client("lambda").get_function(FunctionName=name)["Configuration"]["FunctionArn"]
    api = apis.create_api(Name=name, ProtocolType="HTTP", Target=arn)["ApiId"]
    url = dev.function_url(name, InvokeMode="RESPONSE_STREAM")
    _, _, rest = rest_api(dev, name, "/{all+}")
    for front in [url, f"{dev.url}/_dunlin/api/{api}/$default/", rest + "/"]:
        answer = requests.post(front + "a%20b", params={"q": ["1", "ü"]}, data="bödy".encode(), timeout=30)
        assert (answer.status_code, answer.headers["x-own"], answer.cookies.get_dict()) == (201, "yes", {"a": "1"})
        assert answer.headers["content-type"] == "application/json"
        got = answer.json()
        assert got["path"].endswith("/a%20b") and got["host"] == dev.url.split("//")[1]
        assert (got["method"], got["q"], got["body"], got["function"]) == ("POST", ["1", "ü"], "bödy", name)
    began = time.monotonic()
    with requests.get(url + "stream", stream=True, timeout=30) as answer:
        pieces = answer.iter_content(chunk_size=None)
        assert next(pieces) == b"first "
        at_first = time.monotonic() - began
        assert b"".join(pieces) == b"last"
    assert time.monotonic() - began - at_first > 1
    assert requests.get(f"{dev.url}/_dunlin/api/{api}/$default/stream", timeout=30).text == "first last"


def test_work_goes_on_after_the_answer(dev):
    name = dev.function({"handler.mjs": HANDLER}, runtime=NODE, handler="handler.default", Timeout=20)
    url = dev.function_url(name)
    assert requests.get(url, timeout=30).status_code == 201
    began = time.monotonic()
    assert requests.get(url + "later", timeout=30).json()["path"] == "/later"
    assert time.monotonic() - began < 0.6
    wait_for(lambda: lines(dev, name, "after the answer"), "the work after the answer")
