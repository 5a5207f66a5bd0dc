//! Web-standard handlers: from the event to the `Request`, from the `Response` to the answer.

'use strict';

const assert = require('node:assert');
const { test } = require('node:test');
const { Guest, folder, run } = require('./guest.cjs');

const SKIP = typeof Request === 'function' ? false : 'needs Node.js 18';

function event(method, path, more = {}) {
  const { headers = {}, ...rest } = more;
  return {
    version: '2.0', rawPath: path, rawQueryString: '', isBase64Encoded: false,
    headers: { host: 'f.example:4566', 'x-forwarded-proto': 'http', ...headers },
    requestContext: { domainName: 'f.example', http: { method, path } }, ...rest,
  };
}

const esm = (body) => ({ 'index.mjs': `export default { ${body} };` });

test('a request is what the client sent', { skip: SKIP }, async (t) => {
  const files = esm(`async fetch(request, env, ctx) {
    const body = request.body ? await request.text() : null;
    return Response.json({ method: request.method, url: request.url, a: request.headers.get('x-a'), cookie: request.headers.get('cookie'), body,
      own: env.OWN, id: ctx.lambda.context.awsRequestId, path: ctx.lambda.event.rawPath });
  }`);
  const events = [
    event('GET', '/a b/ü?#', { rawQueryString: 'q=1&q=%20', headers: { 'x-a': 'b,c' }, cookies: ['c=1', 'd=2'] }),
    event('POST', '/', { body: 'eMO8', isBase64Encoded: true }),
    event('PUT', '/', { body: 'plain ü' }),
  ];
  const { answers } = await run(t, { files, handler: 'index.default', events, environment: { OWN: 'mine' } });
  const [get, post, put] = answers.map((answer) => JSON.parse(JSON.parse(answer.text).body));
  assert.deepStrictEqual(get, {
    method: 'GET', url: 'http://f.example:4566/a%20b/%C3%BC%3F%23?q=1&q=%20', a: 'b,c', cookie: 'c=1; d=2', body: null, own: 'mine', id: 'request-1', path: '/a b/ü?#',
  });
  assert.deepStrictEqual([post.method, post.body, put.body], ['POST', 'xü', 'plain ü']);
});

test('a response is the answer', { skip: SKIP }, async (t) => {
  const files = esm(`fetch(request) {
    const headers = new Headers({ 'x-own': 'yes' });
    headers.append('set-cookie', 'a=1'); headers.append('set-cookie', 'b=2; Path=/');
    switch (new URL(request.url).pathname) {
      case '/text': return new Response('ü', { status: 201, headers });
      case '/bytes': return new Response(new Uint8Array([0, 255]));
      case '/none': return new Response(null, { status: 204 });
      case '/wrong': return { statusCode: 200 };
      case '/error': return Response.error();
      default: throw new RangeError('as asked');
    }
  }`);
  const paths = ['/text', '/bytes', '/none', '/wrong', '/error', '/throw'];
  const { answers } = await run(t, { files, handler: 'index.handler', events: [...paths.map((path) => event('GET', path)), { no: 'http' }] });
  const json = (index) => JSON.parse(answers[index].text);
  assert.deepStrictEqual(json(0), {
    statusCode: 201, headers: { 'content-type': 'text/plain;charset=UTF-8', 'x-own': 'yes' }, cookies: ['a=1', 'b=2; Path=/'], body: 'ü',
  });
  assert.deepStrictEqual([json(1).body, json(1).isBase64Encoded], ['AP8=', true]);
  assert.deepStrictEqual([json(2).statusCode, json(2).body], [204, '']);
  const refused = answers.slice(3).map((answer) => [answer.document.errorType, answer.document.errorMessage]);
  assert.deepStrictEqual(refused, [
    ['TypeError', 'The fetch handler must return a Response.'],
    ['TypeError', 'A Response of status 0 is no answer.'],
    ['RangeError', 'as asked'],
    ['TypeError', 'A fetch handler takes HTTP events: of a function URL, an HTTP API, or a REST API.'],
  ]);
});

test('events of REST APIs have their own names', { skip: SKIP }, async (t) => {
  const files = esm(`async fetch(request) {
    const headers = new Headers({ 'x-own': 'yes' });
    headers.append('set-cookie', 'a=1'); headers.append('set-cookie', 'b=2');
    return new Response([request.method, request.url, request.headers.get('x-a'), await request.text()].join(' '), { status: 201, headers });
  }`);
  const rest = {
    httpMethod: 'POST', path: '/a%20b', body: 'eMO8', isBase64Encoded: true, requestContext: { path: '/dev/a%20b', domainName: 'd' },
    multiValueHeaders: { Host: ['f.example'], 'X-A': ['b', 'c'] }, multiValueQueryStringParameters: { q: ['1', 'ü'] },
  };
  const { answers } = await run(t, { files, handler: 'index.default', events: [rest, { ...rest, multiValueQueryStringParameters: null }] });
  assert.deepStrictEqual(JSON.parse(answers[0].text), {
    statusCode: 201, body: 'POST https://f.example/dev/a%20b?q=1&q=%C3%BC b, c xü',
    multiValueHeaders: { 'content-type': ['text/plain;charset=UTF-8'], 'x-own': ['yes'], 'set-cookie': ['a=1', 'b=2'] },
  });
  assert.match(answers[1].text, /dev\/a%20b b, c/);
});

test('a body is streamed where the caller takes a stream', { skip: SKIP }, async (t) => {
  const files = esm(`async fetch(request, env, ctx) {
    const parts = ['one ', 'two'];
    return new Response(new ReadableStream({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 2));
        if (parts.length > 0) controller.enqueue(new TextEncoder().encode(parts.shift()));
        else if (request.method === 'POST') controller.error(new RangeError('half way'));
        else controller.close();
      },
    }), { status: 202 });
  }`);
  const meta = { stream: true };
  const { answers } = await run(t, { files, handler: 'index.default', events: [event('GET', '/'), event('POST', '/'), event('GET', '/')], meta });
  assert.strictEqual(answers[0].type, 'application/vnd.awslambda.http-integration-response');
  assert.deepStrictEqual(answers[0].pieces.map(String), ['{"statusCode":202,"headers":{},"cookies":[]}' + '\0'.repeat(8), 'one ', 'two']);
  assert.deepStrictEqual([answers[1].kind, answers[1].document.errorMessage, answers[1].pieces.length], ['ERROR', 'half way', 3]);
  assert.strictEqual(answers[2].kind, 'STREAM');
});

test('waitUntil keeps the function after its answer', { skip: SKIP }, async (t) => {
  const root = folder(t, esm(`async fetch(request, env, ctx) {
    ctx.waitUntil(new Promise((resolve) => setTimeout(resolve, 20)).then(() => console.log('first')));
    ctx.waitUntil(new Promise((_, reject) => setTimeout(reject, 5, new Error('lost'))));
    return new Response('early');
  }`));
  for (const stream of [false, true]) {
    const guest = new Guest();
    await guest.load(root, 'index.default', {});
    const answer = await guest.invoke(event('GET', '/'), { stream });
    assert.deepStrictEqual([answer.lingers, answer.text.includes('early')], [true, true]);
    assert.doesNotMatch(guest.log, /first/);
    assert.strictEqual((await guest.next()).kind, 'READY');
    assert.strictEqual((await guest.invoke(event('GET', '/'), { stream })).lingers, true);
    await guest.next();
    await guest.close();
    assert.match(guest.log, /ERROR\tError: lost[^]*INFO\tfirst/);
  }
});

test('which objects are such handlers', { skip: SKIP }, async (t) => {
  const body = 'fetch() { return new Response(this.name || "none"); }';
  const answered = async (files, handler) => {
    const { loaded, answers } = await run(t, { files, handler, events: [event('GET', '/')], environment: { AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs24.x' } });
    return answers.length > 0 ? answers[0].text : loaded.document.errorType;
  };
  const own = (name) => new RegExp(`"body":"${name}"`);
  assert.match(await answered({ 'index.mjs': `export const app = { name: 'app', ${body} };` }, 'index.app'), own('app'));
  assert.match(await answered({ 'index.js': `module.exports = { name: 'cjs', ${body} };` }, 'index.default'), own('cjs'));
  assert.match(await answered({ 'index.mjs': `class App { name = 'class'; ${body} } export default new App();` }, 'index.handler'), own('class'));
  // A function called fetch is a handler as any other, and so is one that has a fetch beside it.
  assert.strictEqual(await answered({ 'index.mjs': 'export const fetch = async (event) => event.rawPath;' }, 'index.fetch'), '"/"');
  assert.strictEqual(await answered({ 'index.mjs': `export const handler = async () => 1; export default { ${body} };` }, 'index.handler'), '1');
  assert.strictEqual(await answered({ 'index.mjs': 'export default { other: 1 };' }, 'index.handler'), 'Runtime.HandlerNotFound');
});
