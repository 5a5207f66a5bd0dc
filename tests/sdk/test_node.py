"""Functions in Node.js, beyond what the suite of all runtimes checks: kinds of handlers and modules, errors, logs."""

import re

import pytest

from conftest import NODE, wait_for
from test_invoke import invoke, tail


def node(server, source, handler="handler.handler", **settings):
    """A Node.js function, and a way to call it."""
    files = source if isinstance(source, dict) else {"handler.js": source}
    name = server.function(files, runtime=NODE, handler=handler, **settings)
    return lambda payload=None, **arguments: invoke(server, name, payload, **arguments)


@pytest.mark.parametrize(
    "files",
    [
        {"handler.js": "exports.handler = async (event) => event;"},
        {"handler.cjs": "exports.handler = async (event) => event;"},
        {"handler.mjs": "export const handler = async (event) => event;"},
        {"handler.js": "export const handler = async (event) => event;", "package.json": '{"type": "module"}'},
        {"handler.mjs": "import { echo } from './lib.mjs';\nconst wait = await Promise.resolve(1);\nexport const handler = echo;",
         "lib.mjs": "export const echo = async (event) => event;"},
        {"handler.js": "exports.handler = async (event) => require('dep')(event);",
         "node_modules/dep/index.js": "module.exports = (x) => x;"},
        {"handler.js": "module.exports.handler = (event, context, callback) => callback(null, event);"},
        {"handler.js": "exports.handler = (event, context, callback) => { setTimeout(() => callback(null, event), 20); };"},
        {"handler.js": "exports.handler = async (event, context, callback) => { callback(null, event); };"},
        {"handler.js": "exports.handler = (event, context) => context.succeed(event);"},
        {"handler.js": "exports.handler = (event, context) => context.done(null, event);"},
        {"handler.js": "exports.handler = (event) => ({ then: (ok) => setImmediate(() => ok(event)) });"},
    ],
    ids=["async", "cjs", "mjs", "type-module", "await-at-top", "dependency", "callback", "callback-later",
         "async-callback", "succeed", "done", "thenable"],
)
@pytest.mark.modes("dev")
def test_kinds_of_handlers(server, files):
    event = {"text": "ü☃🐦", "n": [1, 2.5, None]}
    call = node(server, files)
    for _ in range(2):
        answer = call(event)
        assert "FunctionError" not in answer, answer["json"]
        assert answer["json"] == event


@pytest.mark.parametrize(
    ("handler", "source"),
    [
        ("src/app.lib.run", {"src/app.js": "exports.lib = { run: async () => 'ran' };"}),
        ("a/b/c.run", {"a/b/c.mjs": "export const run = async () => 'ran';"}),
    ],
)
@pytest.mark.modes("dev")
def test_paths_of_handlers(server, handler, source):
    assert node(server, source, handler=handler)()["json"] == "ran"


@pytest.mark.modes("dev")
def test_results(server):
    source = (
        "exports.handler = async (event) => {\n"
        "  switch (event) { case 'undefined': return; case 'null': return null; case 'circle': { const a = {}; a.a = a; return a; }\n"
        "    case 'date': return new Date(0); default: return { kept: 1, gone: undefined }; }\n};"
    )
    call = node(server, source)
    assert call("undefined")["body"] == b"null"
    assert call("null")["body"] == b"null"
    assert call("date")["body"] == b'"1970-01-01T00:00:00.000Z"'
    assert call("else")["body"] == b'{"kept":1}'
    answer = call("circle")
    assert answer["FunctionError"] == "Unhandled"
    assert "Unable to stringify response body" in answer["json"]["errorMessage"]


@pytest.mark.modes("dev")
def test_a_plain_handler_that_never_calls_back_answers_null(server):
    assert node(server, "exports.handler = () => 'ignored';")()["body"] == b"null"


@pytest.mark.parametrize(
    ("source", "kind", "words"),
    [
        ("exports.handler = async () => { throw new TypeError('tü'); };", "TypeError", "tü"),
        ("exports.handler = () => { throw new RangeError('r'); };", "RangeError", "r"),
        ("exports.handler = (e, c, done) => done(new Error('from callback'));", "Error", "from callback"),
        ("exports.handler = (e, c, done) => done('words');", "string", "words"),
        ("exports.handler = async () => { throw 'text'; };", "string", "text"),
        ("exports.handler = (e, c) => c.fail(new Error('failed'));", "Error", "failed"),
        ("class Own extends Error { constructor(m) { super(m); this.name = 'Own'; } }\n"
         "exports.handler = async () => { throw new Own('mine'); };", "Own", "mine"),
    ],
)
@pytest.mark.modes("dev")
def test_errors(server, source, kind, words):
    answer = node(server, source)(LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert (answer["json"]["errorType"], answer["json"]["errorMessage"]) == (kind, words)
    assert isinstance(answer["json"]["trace"], list)
    assert re.search(r"\tERROR\tInvoke Error \t\{", tail(answer))


@pytest.mark.parametrize(
    ("files", "handler", "kind", "words"),
    [
        ({"handler.js": "require('nothing-like-this');"}, "handler.handler", "Runtime.ImportModuleError",
         "Error: Cannot find module 'nothing-like-this'"),
        ({"handler.js": "exports.handler = async ( => 1;"}, "handler.handler", "Runtime.UserCodeSyntaxError", "SyntaxError"),
        ({"handler.js": "exports.other = 1;"}, "handler.handler", "Runtime.HandlerNotFound",
         "handler.handler is undefined or not exported"),
        ({"handler.js": "exports.handler = 'text';"}, "handler.handler", "Runtime.HandlerNotFound",
         "handler.handler is not a function"),
        ({"handler.js": ""}, "missing.handler", "Runtime.ImportModuleError", "Cannot find module 'missing'"),
        ({"handler.js": ""}, "handler", "Runtime.MalformedHandlerName", "Bad handler"),
        ({"handler.js": "throw new Error('at load');"}, "handler.handler", "Error", "at load"),
        ({"handler.mjs": "import './nothing.mjs'; export const handler = 1;"}, "handler.handler",
         "Runtime.ImportModuleError", "Cannot find module"),
    ],
    ids=["import", "syntax", "no-handler", "no-function", "no-module", "malformed", "raises", "esm-import"],
)
@pytest.mark.modes("dev")
def test_errors_of_the_initialisation(server, files, handler, kind, words):
    call = node(server, files, handler=handler)
    for _ in range(2):
        answer = call({})
        assert answer["FunctionError"] == "Unhandled"
        assert answer["json"]["errorType"] == kind, answer["json"]
        assert words in answer["json"]["errorMessage"], answer["json"]


@pytest.mark.parametrize(
    ("statement", "kind", "words"),
    [
        ("setTimeout(() => { throw new Error('uncaught'); }, 1)", "Error", "uncaught"),
        ("Promise.reject(new Error('unhandled'))", "Runtime.UnhandledPromiseRejection", "Error: unhandled"),
        ("setTimeout(() => process.exit(7), 1)", "Runtime.ExitError", "Runtime exited with error: exit status 7"),
    ],
)
@pytest.mark.modes("dev")
def test_ends_of_the_process(server, statement, kind, words):
    source = (
        "exports.handler = (event, context, done) => {\n"
        f"  if (event.die) {{ {statement}; setTimeout(() => done(null, 'late'), 2000); }} else done(null, 'alive');\n}};"
    )
    call = node(server, source)
    answer = call({"die": 1}, LogType="Tail")
    assert answer["FunctionError"] == "Unhandled", answer["json"]
    assert answer["json"]["errorType"] == kind
    assert words in answer["json"]["errorMessage"]
    code = {"Error": 129, "Runtime.UnhandledPromiseRejection": 128}.get(kind, 7)
    request_id, lines = answer["ResponseMetadata"]["RequestId"], tail(answer)
    assert f"RequestId: {request_id} Error: Runtime exited with error: exit status {code}\nRuntime.ExitError\n" in lines, lines
    assert "Status: error\tError Type: Runtime.ExitError" in lines.split("REPORT")[1], lines
    assert call({})["json"] == "alive"


@pytest.mark.modes("dev")
def test_console(server):
    source = (
        "console.log('at load');\nexports.handler = async () => {\n"
        "  console.log('%s and %d', 'text', 2, { a: 1 }); console.error('bad'); console.warn('hm'); console.debug('deep');\n"
        "  console.log('two\\nlines'); process.stdout.write('raw\\n'); };"
    )
    answer = node(server, source)(LogType="Tail")
    text = tail(answer)
    request_id = answer["ResponseMetadata"]["RequestId"]
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
    assert re.search(rf"{stamp}\tundefined\tINFO\tat load\n", text), text
    for level, words in [("INFO", "text and 2 { a: 1 }"), ("ERROR", "bad"), ("WARN", "hm"), ("DEBUG", "deep")]:
        assert re.search(rf"{stamp}\t{request_id}\t{level}\t{re.escape(words)}\n", text), text
    assert "INFO\ttwo\nlines\n" in text and "\nraw\n" in text


@pytest.mark.modes("dev")
def test_an_event_of_several_lines_is_one_log_event(server):
    name = server.function("exports.handler = async () => { console.log('first\\nsecond'); };", runtime=NODE)
    invoke(server, name)
    logs = server.client("logs")

    def found():
        events = logs.filter_log_events(logGroupName=f"/aws/lambda/{name}", filterPattern="first")["events"]
        return [event["message"] for event in events]

    message = wait_for(found, "the log line")[0]
    assert message.split("\t")[3] == "first\nsecond\n"
