//! One invocation: calls the handler and decides which of its results is the answer.
//!
//! | handler                                       | answer                                                                |
//! |-----------------------------------------------|-----------------------------------------------------------------------|
//! | returns a promise                             | at once when it settles                                               |
//! | calls back with an error                      | at once                                                               |
//! | calls back with a value                       | when the event loop is empty; at once if                              |
//! |                                               | `callbackWaitsForEmptyEventLoop` is false                             |
//! | `context.succeed`, `fail`, `done`             | at once                                                               |
//! | throws                                        | at once                                                               |
//! | none of these, and the event loop is empty    | `null`                                                                |
//! | returns another value                         | ignored up to nodejs22.x; later runtimes answer with it               |
//! | is an object with a method `fetch`            | see `fetch.cjs`                                                       |
//!
//! Invariant: the first of them wins, also between a callback and the promise of an `async` handler.

'use strict';

const channel = require('./channel.cjs');
const errors = require('./errors.cjs');
const logs = require('./logs.cjs');

// Taken before a function may put another clock in its place.
const now = performance.now.bind(performance);

/** What comes before the answer's JSON: how long it took (written anew for each), its type. */
const prefix = prefixOf('application/json');

function prefixOf(type) {
  const bytes = Buffer.from(type, 'utf8');
  const made = Buffer.alloc(8 + bytes.length);
  made.writeUInt32LE(bytes.length, 4);
  bytes.copy(made, 8);
  return made;
}

/** What the outcome of an invocation is written through; it calls `next` once, after the answer. */
class Answer {
  constructor(next) {
    this.began = now();
    this.next = next;
    this.done = false;
    this.whenEmpty = null;
    this.after = null;
  }

  /** Has the guest take no call before `promise` has settled, whatever its outcome; asked again after it. */
  linger(promise) {
    this.after = promise;
  }

  succeed(value) {
    let text;
    try {
      text = JSON.stringify(value === undefined ? null : value);
    } catch (_) {
      return this.fail(new Error('Unable to stringify response body'));
    }
    // A function or a symbol has no JSON: Lambda answers with an empty body.
    if (text === undefined) text = '';
    const bytes = text.length * 3 > errors.PAYLOAD_BYTES_MAX ? Buffer.byteLength(text) : 0;
    if (bytes > errors.PAYLOAD_BYTES_MAX) return this.refuse(errors.TOO_LARGE);
    return this.settle(() => {
      const took = (now() - this.began) * 1000;
      prefix.writeUInt32LE(Math.min(Math.max(took, 0), 0xffffffff), 0);
      channel.write(channel.kind.RESPONSE, text, prefix);
    });
  }

  /** Ends an answer whose pieces were sent. */
  endStream() {
    return this.settle(() => channel.write(channel.kind.END, null));
  }

  fail(thrown) {
    logs.failure('Invoke Error', thrown);
    return this.refuse(errors.document(thrown));
  }

  refuse(document) {
    return this.settle(() => channel.write(channel.kind.ERROR, errors.encode(document)));
  }

  settle(write) {
    this.done = true;
    this.whenEmpty = null;
    if (this.after === null) {
      write();
      this.next();
      return;
    }
    channel.write(channel.kind.LINGER, null);
    write();
    this.after.then(() => {
      channel.write(channel.kind.READY, null);
      this.next();
    });
  }

  answered() {
    return this.done;
  }

  loopIsEmpty() {
    const act = this.whenEmpty;
    this.whenEmpty = null;
    if (act !== null) act();
  }
}

/** Starts the handler. The result tells whether it was answered and is told when the event loop is empty. */
function run(handler, meta, text, next) {
  const answer = new Answer(next);
  let event;
  let context;
  try {
    event = text.length === 0 ? {} : JSON.parse(text);
    context = contextOf(meta);
  } catch (error) {
    answer.fail(error);
    return answer;
  }
  if (handler.fetch) require('./fetch.cjs').run(handler, event, context, answer, meta.stream === true);
  else if (handler.streaming) require('./streaming.cjs').run(handler, event, context, answer);
  else if (handler.callbacks) runWithCallbacks(handler, event, context, answer);
  else runPlain(handler, event, context, answer);
  return answer;
}

function runPlain(handler, event, context, answer) {
  const { call } = handler;
  let promise = null;
  let result;
  try {
    result = call(event, context);
    promise = promiseOf(result);
  } catch (error) {
    answer.fail(error);
    return;
  }
  if (promise === null) answer.succeed(result);
  else promise.then((value) => answer.succeed(value), (error) => answer.fail(error));
}

function runWithCallbacks(handler, event, context, answer) {
  let first = true;
  const once = (act) => (...values) => {
    if (!first) return;
    first = false;
    answer.whenEmpty = null;
    act(...values);
  };
  const given = (value) => value !== undefined && value !== null;
  const callback = once((error, value) => {
    if (given(error)) answer.fail(error);
    else if (context.callbackWaitsForEmptyEventLoop) answer.whenEmpty = () => answer.succeed(value);
    else answer.succeed(value);
  });
  context.callbackWaitsForEmptyEventLoop = true;
  context.succeed = once((value) => answer.succeed(value));
  context.fail = once((error) => answer.fail(given(error) ? error : 'handled'));
  context.done = once((error, value) => (given(error) ? answer.fail(error) : answer.succeed(value)));
  answer.whenEmpty = once(() => answer.succeed(null));
  const { call } = handler;
  const { fail } = context;
  let promise;
  try {
    promise = promiseOf(call(event, context, callback));
  } catch (error) {
    // Also where it is nothing: thrown, that is no success.
    fail(error);
    return;
  }
  if (promise !== null) promise.then(context.succeed, context.fail);
}

/** The promise that a handler's result is, or null. What is only like one settles once in it, whatever it does. */
function promiseOf(value) {
  const is = value !== null && value !== undefined && typeof value.then === 'function';
  return is ? Promise.resolve(value) : null;
}

/** The part of the context that is the same for every invocation: looking into the environment is slow. */
let fixed = null;

function fixedContext() {
  const environment = process.env;
  return {
    functionVersion: environment.AWS_LAMBDA_FUNCTION_VERSION,
    functionName: environment.AWS_LAMBDA_FUNCTION_NAME,
    memoryLimitInMB: environment.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    logGroupName: environment.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: environment.AWS_LAMBDA_LOG_STREAM_NAME,
  };
}

/** Forgets it: the environment has changed. */
function forget() {
  fixed = null;
}

function contextOf(meta) {
  if (fixed === null) fixed = fixedContext();
  // Written out, not spread: an object of constant shape is several times quicker to make.
  const context = {
    functionVersion: fixed.functionVersion,
    functionName: fixed.functionName,
    memoryLimitInMB: fixed.memoryLimitInMB,
    logGroupName: fixed.logGroupName,
    logStreamName: fixed.logStreamName,
    clientContext: parsed(meta.clientContext),
    identity: parsed(meta.identity),
    invokedFunctionArn: meta.functionArn,
    awsRequestId: meta.requestId,
    getRemainingTimeInMillis: () => meta.deadlineMs - Date.now(),
  };
  if (meta.tenantId !== undefined) context.tenantId = meta.tenantId;
  return context;
}

/** The platform may hand JSON text on as it came, or the value. */
function parsed(value) {
  return typeof value === 'string' ? JSON.parse(value) : value;
}

module.exports = { forget, promiseOf, run };
