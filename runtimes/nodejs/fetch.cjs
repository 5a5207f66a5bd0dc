//! Web-standard handlers: `export default { async fetch(request, env, ctx) { return new Response(...) } }`.
//!
//! An HTTP event of format 2.0 (function URLs, HTTP APIs) becomes a `Request`, the `Response` becomes the answer: in pieces
//! as its body comes where the caller takes a stream, else as a whole.
//!
//! | argument  | is                                                                                                   |
//! |-----------|------------------------------------------------------------------------------------------------------|
//! | `request` | method, URL as the client addressed it, headers, cookies in `cookie`, body                           |
//! | `env`     | the environment variables                                                                            |
//! | `ctx`     | `waitUntil(promise)`: work after the answer, within the function's time; `lambda`: event and context |
//!
//! Needs the `Request` and `Response` of Node.js 18. Loaded only for functions that are such handlers.

'use strict';

const { once } = require('events');
const { HttpResponseStream, ResponseStream, settled } = require('./streaming.cjs');

function run(handler, event, context, answer, streams) {
  const pending = new Set();
  const ctx = {
    waitUntil(promise) {
      const kept = Promise.resolve(promise).catch((error) => console.error(error)).then(() => pending.delete(kept));
      pending.add(kept);
    },
    passThroughOnException() {},
    lambda: { event, context },
  };
  const ended = async () => {
    while (pending.size > 0) await Promise.all(pending);
  };
  const end = (act) => (value) => {
    if (answer.answered()) return;
    answer.whenEmpty = null;
    if (pending.size > 0) answer.linger(ended());
    act(value);
  };
  const fail = end((error) => answer.fail(error));
  // When the event loop is empty nothing is left that could answer.
  answer.whenEmpty = () => fail(new Error('The fetch handler did not answer.'));
  respond(handler.fetch, event, ctx).then((response) => {
    if (streams) return stream(response, answer, end);
    return whole(response).then(end((value) => answer.succeed(value)));
  }).catch(fail);
}

async function respond(web, event, ctx) {
  const response = await web.fetch(requestOf(event), process.env, ctx);
  if (response === null || typeof response !== 'object' || typeof response.status !== 'number' || !response.headers) {
    throw new TypeError('The fetch handler must return a Response.');
  }
  if (response.status < 200) throw new TypeError(`A Response of status ${response.status} is no answer.`);
  return response;
}

function requestOf(event) {
  if (event === null || typeof event !== 'object' || event.version !== '2.0' || !event.requestContext || !event.requestContext.http) {
    throw new TypeError('A fetch handler takes HTTP events of format 2.0: of a function URL, or of an HTTP API.');
  }
  const { method } = event.requestContext.http;
  const headers = new Headers(event.headers);
  if (event.cookies && event.cookies.length > 0) headers.set('cookie', event.cookies.join('; '));
  // The event has the path decoded.
  const path = encodeURI(event.rawPath).replace(/[?#]/g, encodeURIComponent);
  const query = event.rawQueryString ? `?${event.rawQueryString}` : '';
  const host = headers.get('host') || event.requestContext.domainName;
  const url = `${headers.get('x-forwarded-proto') || 'https'}://${host}${path}${query}`;
  const bodiless = method === 'GET' || method === 'HEAD' || event.body === undefined || event.body === null;
  const body = bodiless ? undefined : Buffer.from(event.body, event.isBase64Encoded ? 'base64' : 'utf8');
  return new Request(url, { method, headers, body });
}

/** Status, headers and cookies of an answer. */
function headOf(response) {
  const headers = {};
  for (const [name, value] of response.headers) if (name !== 'set-cookie') headers[name] = value;
  const cookie = response.headers.get('set-cookie');
  const cookies = response.headers.getSetCookie ? response.headers.getSetCookie() : cookie === null ? [] : [cookie];
  return { statusCode: response.status, headers, cookies };
}

async function whole(response) {
  const bytes = Buffer.from(await response.arrayBuffer());
  let body;
  try {
    body = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (_) {
    return { ...headOf(response), body: bytes.toString('base64'), isBase64Encoded: true };
  }
  return { ...headOf(response), body };
}

async function stream(response, answer, end) {
  const out = HttpResponseStream.from(new ResponseStream(), headOf(response));
  const failed = new Promise((_, reject) => out.once('error', reject));
  // Waited for below only where there is something to wait for.
  failed.catch(() => {});
  try {
    // The head leaves with the first bytes, or now if they take their time.
    out.begin();
    for await (const chunk of response.body || []) {
      if (!out.write(chunk)) await Promise.race([once(out, 'drain'), failed]);
    }
    out.end();
    await settled(out);
  } catch (error) {
    out.cut = true;
    await settled(out);
    throw error;
  }
  end(() => answer.endStream())();
}

module.exports = { run };
