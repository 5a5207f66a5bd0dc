//! Web-standard handlers: `export default { async fetch(request, env, ctx) { return new Response(...) } }`.
//!
//! An HTTP event (format 2.0 of function URLs and HTTP APIs, format 1.0 of REST APIs) becomes a `Request`, the `Response`
//! becomes the answer: in pieces as its body comes where the caller takes a stream, else as a whole.
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
    return whole(response, isOfRest(event)).then(end((value) => answer.succeed(value)));
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

/** Whether an event is of format 1.0: it has the names of REST APIs, and so has its answer. */
function isOfRest(event) {
  return typeof event.httpMethod === 'string';
}

function requestOf(event) {
  const context = event !== null && typeof event === 'object' && event.requestContext;
  if (!context || (!isOfRest(event) && (event.version !== '2.0' || !context.http))) {
    throw new TypeError('A fetch handler takes HTTP events: of a function URL, an HTTP API, or a REST API.');
  }
  const { method, headers, target } = isOfRest(event) ? partsOfRest(event) : parts(event);
  const url = `${headers.get('x-forwarded-proto') || 'https'}://${headers.get('host') || context.domainName}${target}`;
  const bodiless = method === 'GET' || method === 'HEAD' || event.body === undefined || event.body === null;
  const body = bodiless ? undefined : Buffer.from(event.body, event.isBase64Encoded ? 'base64' : 'utf8');
  return new Request(url, { method, headers, body });
}

function parts(event) {
  const headers = new Headers(event.headers);
  if (event.cookies && event.cookies.length > 0) headers.set('cookie', event.cookies.join('; '));
  // The event has the path decoded.
  const path = encodeURI(event.rawPath).replace(/[?#]/g, encodeURIComponent);
  const target = event.rawQueryString ? `${path}?${event.rawQueryString}` : path;
  return { method: event.requestContext.http.method, headers, target };
}

function partsOfRest(event) {
  const headers = new Headers();
  const many = event.multiValueHeaders || {};
  for (const name of Object.keys(many)) for (const value of many[name]) headers.append(name, value);
  const query = new URLSearchParams();
  const values = event.multiValueQueryStringParameters || {};
  for (const name of Object.keys(values)) for (const value of values[name]) query.append(name, value);
  // The path with its stage, as the client addressed it.
  const path = event.requestContext.path || event.path;
  return { method: event.httpMethod, headers, target: String(query) === '' ? path : `${path}?${query}` };
}

/** Status, headers and cookies of an answer. */
function headOf(response) {
  const headers = {};
  for (const [name, value] of response.headers) if (name !== 'set-cookie') headers[name] = value;
  const cookie = response.headers.get('set-cookie');
  const cookies = response.headers.getSetCookie ? response.headers.getSetCookie() : cookie === null ? [] : [cookie];
  return { statusCode: response.status, headers, cookies };
}

async function whole(response, ofRest) {
  const bytes = Buffer.from(await response.arrayBuffer());
  const answer = ofRest ? headOfRest(response) : headOf(response);
  try {
    answer.body = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (_) {
    answer.body = bytes.toString('base64');
    answer.isBase64Encoded = true;
  }
  return answer;
}

function headOfRest(response) {
  const { statusCode, headers, cookies } = headOf(response);
  const multiValueHeaders = {};
  for (const name of Object.keys(headers)) multiValueHeaders[name] = [headers[name]];
  if (cookies.length > 0) multiValueHeaders['set-cookie'] = cookies;
  return { statusCode, multiValueHeaders };
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
