//! What a handler's result means: each kind of handler, its answer, and the end of the process where it ends.

'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { Guest, folder, run } = require('./guest.cjs');

const js = (body) => ({ 'index.js': body });

/** name, source, expected answer text */
const ANSWERS = [
  ['async', 'exports.handler = async (e) => ({ got: e });', '{"got":{"n":1}}'],
  ['promise', 'exports.handler = (e) => Promise.resolve(e.n);', '1'],
  ['thenable', 'exports.handler = () => ({ then: (f) => f("x") });', '"x"'],
  ['undefined is null', 'exports.handler = async () => {};', 'null'],
  ['unicode', 'exports.handler = async () => "é😀\\u0000";', '"é😀\\u0000"'],
  ['callback', 'exports.handler = (e, c, cb) => { setTimeout(() => cb(null, "cb"), 5); };', '"cb"'],
  ['async with callback', 'exports.handler = async (e, c, cb) => { await null; cb(null, { statusCode: 200 }); };', '{"statusCode":200}'],
  ['callback wins over the return value', 'exports.handler = async (e, c, cb) => { cb(null, 1); return 2; };', '1'],
  ['promise wins over a late callback', 'exports.handler = async (e, c, cb) => { setTimeout(() => cb(null, 1), 5); return 2; };', '2'],
  ['first callback wins', 'exports.handler = (e, c, cb) => { cb(null, 1); cb(null, 2); cb(new Error("no")); };', '1'],
  ['nothing is null', 'exports.handler = () => { setTimeout(() => {}, 5); };', 'null'],
  ['plain value is ignored', 'exports.handler = () => "value";', 'null'],
  ['never settled is null', 'exports.handler = () => new Promise(() => {});', 'null'],
  ['succeed', 'exports.handler = (e, c) => { c.succeed("s"); c.fail("late"); };', '"s"'],
  ['done', 'exports.handler = (e, c) => c.done(null, "d");', '"d"'],
  ['this is not the guest', 'exports.handler = async function () { return this === undefined || this === globalThis; };', 'true'],
];

test('answers', { concurrency: 4 }, async (t) => {
  await Promise.all(ANSWERS.map(([name, source, expected]) =>
    t.test(name, async (t) => {
      const { answers, exit } = await run(t, { files: js(source), events: [{ n: 1 }, { n: 1 }] });
      for (const answer of answers) {
        assert.strictEqual(answer.kind, 'RESPONSE', JSON.stringify(answer));
        assert.strictEqual(answer.text, expected);
        assert.strictEqual(answer.type, 'application/json');
      }
      assert.strictEqual(answers.length, 2);
      assert.strictEqual(exit, 0);
    })));
});

test('an answer says how long the guest had the event', async (t) => {
  const source = 'exports.handler = (e) => new Promise((done) => setTimeout(done, e));';
  const { answers } = await run(t, { files: js(source), events: [0, 50, 0] });
  assert.ok(answers[1].runUs >= 49_000 && answers[1].runUs < 5_000_000, `${answers[1].runUs}`);
  assert.ok(answers[2].runUs < answers[1].runUs, `${answers[2].runUs}`);
});

/** name, source, expected type, expected message */
const ERRORS = [
  ['rejected', 'exports.handler = async () => { throw new TypeError("bad"); };', 'TypeError', 'bad'],
  ['thrown', 'exports.handler = () => { throw new RangeError("sync"); };', 'RangeError', 'sync'],
  ['not an error', 'exports.handler = async () => { throw "text"; };', 'string', 'text'],
  ['nothing', 'exports.handler = async () => { throw undefined; };', 'string', 'handled'],
  ['callback', 'exports.handler = (e, c, cb) => cb(new Error("cb"));', 'Error', 'cb'],
  ['fail', 'exports.handler = (e, c) => c.fail(new Error("f"));', 'Error', 'f'],
  ['fail with nothing', 'exports.handler = (e, c) => c.fail();', 'string', 'handled'],
  ['own class', 'class E extends Error { constructor(m) { super(m); this.name = "Mine"; } } exports.handler = async () => { throw new E("m"); };', 'Mine', 'm'],
  ['circular', 'exports.handler = async () => { const a = {}; a.a = a; return a; };', 'Error', 'Unable to stringify response body'],
  ['big number', 'exports.handler = async () => 1n;', 'Error', 'Unable to stringify response body'],
  ['nothing, at once', 'exports.handler = () => { throw undefined; };', 'string', 'handled'],
  ['a symbol', 'exports.handler = async () => { throw Symbol("s"); };', 'symbol', 'Symbol(s)'],
  ['no prototype', 'exports.handler = async () => { throw Object.create(null); };', 'handled', /cannot be read/],
  ['no prototype, at once', 'exports.handler = () => { throw Object.create(null); };', 'handled', /cannot be read/],
  ['no prototype, called back', 'exports.handler = (e, c, cb) => cb(Object.create(null));', 'handled', /cannot be read/],
  ['no text', 'exports.handler = async () => { throw { toString() { throw 1; } }; };', 'handled', /cannot be read/],
  ['a revoked proxy', 'exports.handler = async () => { const { proxy, revoke } = Proxy.revocable({}, {}); revoke(); throw proxy; };', 'handled', /cannot be read/],
  ['a proxy that throws', 'exports.handler = async () => { throw new Proxy(new Error(), { getPrototypeOf() { throw 1; }, get() { throw 2; } }); };', 'handled', /cannot be read/],
  ['unreadable stack', 'exports.handler = async () => { const e = new Error("m"); Object.defineProperty(e, "stack", { get() { throw 1; } }); throw e; };', 'handled', /cannot be read/],
  ['words that are a symbol', 'exports.handler = async () => { const e = new Error(); e.message = Symbol("s"); throw e; };', 'handled', /cannot be read/],
  ['a name that is a number', 'exports.handler = async () => { const e = new Error("m"); e.name = 7; throw e; };', '7', 'm'],
  ['carries a circle', 'exports.handler = async () => { const e = new Error("m"); e.self = { e, many: Array(1e5).fill(e) }; throw e; };', 'Error', 'm'],
  ['carries what throws', 'exports.handler = async () => { const e = new Error("m"); e.toJSON = () => { throw 1; }; throw e; };', 'Error', 'm'],
  ['a result whose then throws', 'exports.handler = () => ({ get then() { throw new TypeError("then"); } });', 'TypeError', 'then'],
  ['a result that settles twice', 'exports.handler = () => ({ then(ok, no) { no(new Error("first")); ok(2); no(new Error("third")); } });', 'Error', 'first'],
  ['unreadable', 'exports.handler = async () => { const e = new Error(); Object.defineProperty(e, "message", { get() { throw 1; } }); throw e; };', 'handled', /cannot be read/],
];

test('errors', { concurrency: 4 }, async (t) => {
  await Promise.all(ERRORS.map(([name, source, type, message]) =>
    t.test(name, async (t) => {
      const { answers, exit, log } = await run(t, { files: js(source), events: [{}, {}] });
      assert.strictEqual(answers.length, 2);
      for (const { kind, document } of answers) {
        assert.strictEqual(kind, 'ERROR');
        assert.strictEqual(document.errorType, type);
        if (message instanceof RegExp) assert.match(document.errorMessage, message);
        else assert.strictEqual(document.errorMessage, message);
        assert.ok(Array.isArray(document.trace));
      }
      assert.match(log, /\trequest-1\tERROR\tInvoke Error \t\{"errorType":/);
      assert.strictEqual(exit, 0);
    })));
});

test('what is thrown is in a log in JSON, whatever it is', async (t) => {
  const things = ['Object.create(null)', 'Symbol("s")', 'undefined', 'Object.assign(new Error("m"), { get circle() { return this; } })',
    'new Proxy(new Error(), { getPrototypeOf() { throw 1; }, get() { throw 2; } })'];
  for (const thing of things) {
    const source = `exports.handler = async () => { const thing = ${thing}; console.error('own', thing); throw thing; };`;
    const { answers, log } = await run(t, { files: js(source), events: [{}, {}], environment: { AWS_LAMBDA_LOG_FORMAT: 'JSON' } });
    assert.deepStrictEqual(answers.map((answer) => answer && answer.kind), ['ERROR', 'ERROR'], thing);
    const lines = log.trim().split('\n').map((line) => JSON.parse(line));
    assert.deepStrictEqual(lines.map((line) => line.level), Array(4).fill('ERROR'), log);
    assert.match(lines[1].message, /^Invoke Error/);
    assert.ok(lines[1].errorType, log);
  }
});

test('a rejection that nobody handles is an error, whatever it is', async (t) => {
  for (const thing of ['Object.create(null)', 'undefined', 'Symbol("s")', 'new Proxy({}, { get() { throw 2; }, getPrototypeOf() { throw 1; } })']) {
    const source = `exports.handler = () => new Promise(() => { Promise.reject(${thing}); setTimeout(() => {}, 5000); });`;
    const { answers, exit } = await run(t, { files: js(source) });
    assert.strictEqual(answers[0].kind, 'INIT_ERROR', thing);
    assert.strictEqual(answers[0].document.errorType, 'Runtime.UnhandledPromiseRejection', thing);
    assert.strictEqual(exit, 128);
  }
});

test('a callback waits for the event loop unless it is told not to', async (t) => {
  const source = `let ticks = 0;
    exports.handler = (e, c, cb) => {
      if (e.now) c.callbackWaitsForEmptyEventLoop = false;
      const before = ticks;
      setTimeout(() => { ticks += 1; }, 20);
      const result = { before, get after() { return ticks; } };
      cb(null, result);
    };`;
  const { answers } = await run(t, { files: js(source), events: [{}, { now: true }] });
  assert.deepStrictEqual(answers.map((a) => JSON.parse(a.text)), [{ before: 0, after: 1 }, { before: 1, after: 1 }]);
});

test('nothing runs between invocations', async (t) => {
  const root = folder(t, js(`let ticks = 0; setInterval(() => { ticks += 1; }, 1);
    exports.handler = async () => ticks;`));
  const guest = new Guest();
  await guest.load(root, 'index.handler');
  const first = Number((await guest.invoke({})).text);
  await new Promise((resolve) => setTimeout(resolve, 60));
  const second = Number((await guest.invoke({})).text);
  assert.ok(second - first <= 3, `${first} ${second}`);
  assert.strictEqual(await guest.close(), 0);
});

test('nodejs24 and later: no callbacks, and plain values are answers', async (t) => {
  const environment = { AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs24.x' };
  const refused = await run(t, { files: js('exports.handler = async (a, b, c) => 1;'), environment });
  assert.strictEqual(refused.loaded.kind, 'INIT_ERROR');
  assert.strictEqual(refused.loaded.document.errorType, 'Runtime.CallbackHandlerDeprecated');
  const plain = await run(t, { files: js('exports.handler = (e, c) => [e, typeof c.succeed];'), environment });
  assert.strictEqual(plain.answers[0].text, '[{},"undefined"]');
  const streaming = 'exports.handler = awslambda.streamifyResponse(async (e, s, c) => { s.end("x"); });';
  const exempt = await run(t, { files: js(streaming), environment });
  assert.strictEqual(exempt.answers[0].text, 'x');
});

test('uncaught exceptions and rejections end the process with their codes', async (t) => {
  const uncaught = await run(t, { files: js('exports.handler = () => new Promise(() => setTimeout(() => { throw new Error("later"); }, 1));') });
  assert.strictEqual(uncaught.answers[0].document.errorMessage, 'later');
  assert.strictEqual(uncaught.exit, 129);
  assert.match(uncaught.log, /ERROR\tUncaught Exception \t/);
  const rejected = await run(t, { files: js('exports.handler = () => { Promise.reject(new Error("lost")); return new Promise((r) => setTimeout(r, 50)); };') });
  assert.strictEqual(rejected.answers[0].document.errorType, 'Runtime.UnhandledPromiseRejection');
  assert.strictEqual(rejected.answers[0].document.errorMessage, 'Error: lost');
  assert.strictEqual(rejected.exit, 128);
  const left = await run(t, { files: js('exports.handler = () => process.exit(7);') });
  assert.deepStrictEqual([left.answers[0], left.exit], [null, 7]);
});

test('the context is complete', async (t) => {
  const source = `exports.handler = async (e, c) => ({ ...c, left: c.getRemainingTimeInMillis(), trace: process.env._X_AMZN_TRACE_ID });`;
  const environment = {
    AWS_LAMBDA_FUNCTION_NAME: 'f',
    AWS_LAMBDA_FUNCTION_VERSION: '$LATEST',
    AWS_LAMBDA_FUNCTION_MEMORY_SIZE: '128',
    AWS_LAMBDA_LOG_GROUP_NAME: '/aws/lambda/f',
    AWS_LAMBDA_LOG_STREAM_NAME: 's',
  };
  const meta = { traceId: 'Root=1-a-b', clientContext: { custom: { a: 1 } }, identity: { cognitoIdentityId: 'i' } };
  const { answers } = await run(t, { files: js(source), environment, meta });
  const { left, ...context } = JSON.parse(answers[0].text);
  assert.ok(left > 1000 && left <= 3000, String(left));
  assert.deepStrictEqual(context, {
    functionVersion: '$LATEST',
    functionName: 'f',
    memoryLimitInMB: '128',
    logGroupName: '/aws/lambda/f',
    logStreamName: 's',
    clientContext: { custom: { a: 1 } },
    identity: { cognitoIdentityId: 'i' },
    invokedFunctionArn: 'arn:aws:lambda:f',
    awsRequestId: 'request-1',
    callbackWaitsForEmptyEventLoop: true,
    trace: 'Root=1-a-b',
  });
});

test('payloads of 6 MB travel in both directions, larger answers are refused', async (t) => {
  const source = 'exports.handler = async (e) => (typeof e === "number" ? "x".repeat(e) : e);';
  const text = JSON.stringify('é'.repeat(3 * 1024 * 1024 - 10));
  const events = [Buffer.from(text), 6291554, 6291555, 10];
  const { answers } = await run(t, { files: js(source), events });
  assert.ok(answers[0].payload.equals(Buffer.from(text)));
  assert.strictEqual(answers[1].payload.length, 6291556);
  assert.deepStrictEqual(answers[2].document, {
    errorType: 'Function.ResponseSizeTooLarge',
    errorMessage: 'Response payload size exceeded maximum allowed payload size (6291556 bytes).',
  });
  assert.strictEqual(answers[3].text, '"xxxxxxxxxx"');
});

test('LOAD and the first INVOKE may come together, or byte by byte', async (t) => {
  const root = folder(t, js('exports.handler = async (e) => e;'));
  const together = new Guest();
  together.channel.write(Buffer.concat([together.loadBytes(root, 'index.handler'), together.invokeBytes([1])]));
  assert.strictEqual((await together.next()).kind, 'READY');
  assert.strictEqual((await together.next()).text, '[1]');
  assert.strictEqual(await together.close(), 0);
  const slow = new Guest();
  for (const byte of slow.loadBytes(root, 'index.handler')) slow.channel.write(Buffer.from([byte]));
  assert.strictEqual((await slow.next()).kind, 'READY');
  assert.strictEqual(await slow.close(), 0);
});

test('streams', async (t) => {
  const source = `
    exports.plain = awslambda.streamifyResponse(async (e, s) => { s.setContentType('text/plain'); s.write('a'); s.write(Buffer.from('b')); s.end(); });
    exports.http = awslambda.streamifyResponse(async (e, s) => {
      s = awslambda.HttpResponseStream.from(s, { statusCode: 201, headers: { a: 'b' } });
      await new Promise((r) => setTimeout(r, 5)); s.write('é'); s.end();
    }, { highWaterMark: 1 });
    exports.pipeline = awslambda.streamifyResponse(async (e, s) => {
      await require('stream/promises').pipeline(require('stream').Readable.from(['x', 'y']), s);
    });
    exports.open = awslambda.streamifyResponse(async (e, s) => { s.write('a'); });
    exports.sync = awslambda.streamifyResponse((e, s) => { s.end(); });
    exports.fails = awslambda.streamifyResponse(async (e, s) => { s.write('a'); throw new Error('mid'); });
    exports.empty = awslambda.streamifyResponse(async (e, s) => { awslambda.HttpResponseStream.from(s, { statusCode: 204 }).end(); });`;
  const answer = async (name) => (await run(t, { files: js(source), handler: `index.${name}`, events: [{}, {}] })).answers[1];
  const plain = await answer('plain');
  assert.deepStrictEqual([plain.type, plain.text], ['text/plain', 'ab']);
  const http = await answer('http');
  assert.strictEqual(http.type, 'application/vnd.awslambda.http-integration-response');
  assert.strictEqual(http.text, `{"statusCode":201,"headers":{"a":"b"}}${'\0'.repeat(8)}é`);
  const piped = await answer('pipeline');
  assert.deepStrictEqual([piped.type, piped.text], ['application/octet-stream', 'xy']);
  assert.strictEqual((await answer('open')).document.errorMessage, 'Response stream is not finished.');
  assert.strictEqual((await answer('sync')).document.errorMessage, 'Streaming does not support non-async handlers.');
  const failed = await answer('fails');
  assert.deepStrictEqual([failed.kind, failed.document.errorMessage, String(failed.pieces)], ['ERROR', 'mid', 'a']);
  assert.deepStrictEqual([plain.kind, plain.pieces.map(String)], ['STREAM', ['a', 'b']]);
  assert.strictEqual((await answer('empty')).text, `{"statusCode":204}${'\0'.repeat(8)}`);
});

test('a piece is there before the handler ends, and a slow reader does not hold the event loop', async (t) => {
  const source = `
    const { setTimeout: sleep } = require('timers/promises');
    exports.handler = awslambda.streamifyResponse(async (e, s) => {
      s.write('first');
      let turns = 0;
      const timer = setInterval(() => { turns += 1; }, 1);
      const block = Buffer.alloc(1 << 20, 'x');
      for (let n = 0; n < 16; n++) if (!s.write(block)) await require('events').once(s, 'drain');
      clearInterval(timer);
      s.end('turns ' + turns);
    });`;
  const root = folder(t, js(source));
  const guest = new Guest();
  await guest.load(root, 'index.handler', { AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs20.x' });
  guest.channel.write(guest.invokeBytes({}));
  assert.strictEqual((await guest.next()).kind, 'BEGIN');
  assert.strictEqual(String((await guest.next()).payload), 'first');
  guest.channel.pause();
  await new Promise((resolve) => setTimeout(resolve, 100));
  guest.channel.resume();
  let bytes = 0;
  let last;
  for (;;) {
    const frame = await guest.next();
    if (frame.kind === 'END') break;
    bytes += frame.payload.length;
    last = frame.payload;
  }
  assert.strictEqual(bytes - last.length, 16 << 20);
  assert.ok(Number(String(last).split(' ')[1]) >= 20, String(last));
  assert.strictEqual((await guest.close()), 0);
});

test('what nobody catches within a stream ends it with the error', async (t) => {
  const source = `exports.handler = awslambda.streamifyResponse(async (e, s) => {
    s.write(Buffer.alloc(100000), () => setTimeout(() => { throw new Error('later'); }, 5)); await new Promise(() => {});
  });`;
  const { answers, exit } = await run(t, { files: js(source) });
  assert.deepStrictEqual([answers[0].kind, answers[0].document.errorMessage, exit], ['INIT_ERROR', 'later', 129]);
  assert.strictEqual(Buffer.concat(answers[0].pieces).length, 100000);
});
