//! The managed Node.js guest: it loads one handler and answers invocations, one at a time.
//!
//! It speaks the frames of `crates/compute/src/guest_protocol.rs` on descriptor 3. While it waits for a frame the event
//! loop stands still: timers and sockets of the function make no step between invocations, as in a frozen environment.
//!
//! Invariants
//!   1. Every INVOKE is answered by exactly one RESPONSE or ERROR, or the process ends.
//!   2. Nothing but frames is written to descriptor 3; nothing of the guest's own goes to the output, log lines apart.
//!   3. Node's own modules that a function may not need are loaded on first use: loading is what a cold start pays for.
//!
//! Start reading at `serve`. Beside it: `channel.cjs` (frames), `loader.cjs` (handler string to function), `logs.cjs`
//! (console), `invocation.cjs` (what a handler's result means), `streaming.cjs` (response streams), `errors.cjs`,
//! `code_cache.cjs` (compiled code of packages).

'use strict';

const channel = require('./channel.cjs');
const errors = require('./errors.cjs');
const invocation = require('./invocation.cjs');
const loader = require('./loader.cjs');
const logs = require('./logs.cjs');

const state = { phase: 'load', handler: null, current: null, traced: true };

function serve() {
  const frame = channel.read();
  if (frame === null) process.exit(0);
  if (frame.kind === channel.kind.LOAD) load(JSON.parse(frame.buffer.toString('utf8', frame.start, frame.end)));
  else if (frame.kind === channel.kind.INVOKE) invoke(frame);
  else if (frame.kind === channel.kind.COMPILE) compile(JSON.parse(frame.buffer.toString('utf8', frame.start, frame.end)));
  else throw new Error(`unexpected frame of kind ${frame.kind}`);
}

function load(order) {
  Object.assign(process.env, order.environment);
  process.chdir(order.root);
  logs.install();
  loader.prepare(order.root);
  if (order.caches) require('./code_cache.cjs').use(order.caches);
  // What a wrapper has said last.
  const handler = (order.wrapped && process.env._HANDLER) || order.handler;
  loader.load(order.root, handler).then(
    (handler) => {
      state.handler = handler;
      // What the module leaves to this turn is its own still: an error or a rejection there is one of the init.
      setImmediate(() => {
        state.phase = 'ready';
        channel.write(channel.kind.READY, null);
        serve();
      });
    },
    (error) => refuse('Init Error', error),
  );
}

function compile(order) {
  channel.write(channel.kind.BEGIN, null);
  require('./code_cache.cjs').make(order, loader, (piece) => {
    if (piece === null) channel.write(channel.kind.END, null);
    else channel.writeParts(channel.kind.CHUNK, [piece]);
  });
}

function refuse(title, error) {
  logs.failure(title, error);
  channel.write(channel.kind.INIT_ERROR, errors.encode(errors.document(error)));
  process.exit(1);
}

function invoke({ buffer, start, end }) {
  const eventStart = start + 4 + buffer.readUInt32LE(start);
  const meta = JSON.parse(buffer.toString('utf8', start + 4, eventStart));
  logs.setRequestId(meta.requestId, meta.tenantId);
  if (meta.traceId) process.env._X_AMZN_TRACE_ID = meta.traceId;
  else if (state.traced) delete process.env._X_AMZN_TRACE_ID;
  state.traced = Boolean(meta.traceId);
  const event = buffer.toString('utf8', eventStart, end);
  // One turn of the event loop passes between invocations, so that background work of the function gets its share
  // and a rejection that nobody handles is noticed.
  state.current = invocation.run(state.handler, meta, event, () => {
    state.current = null;
    setImmediate(serve);
  });
}

function die(title, error, code) {
  // A frame of a stream that is half written is ended first.
  channel.whenIdle(() => dieNow(title, error, code));
}

function dieNow(title, error, code) {
  if (state.phase === 'load') {
    logs.failure(title, error);
    channel.write(channel.kind.INIT_ERROR, errors.encode(errors.document(error)));
  } else if (state.current !== null && !state.current.answered()) {
    logs.failure(title, error);
    // Not ERROR: no other call may come while this process ends, which takes milliseconds.
    channel.write(channel.kind.INIT_ERROR, errors.encode(errors.document(error)));
  } else {
    logs.failure(title, error);
  }
  process.exit(code);
}

process.on('uncaughtException', (error) => die('Uncaught Exception', error, 129));
process.on('unhandledRejection', (reason) => {
  die('Unhandled Promise Rejection', new errors.UnhandledPromiseRejection(reason), 128);
});
process.on('beforeExit', () => {
  if (state.current !== null) state.current.loopIsEmpty();
});

/**
 * Runs what every load and every first call runs, so that what Node compiles on first use is compiled before anybody
 * waits, and loads what most functions load. Nothing else of it is left: no answer is written, and the module is forgotten.
 */
async function rehearse() {
  // For most functions the longest part of what comes before their first answer. `http2` takes 2 ms more, and 1 MiB of each guest.
  require('https');
  // Node tells addresses from names by expressions that take milliseconds when they are first used.
  require('net').isIP('::1');
  const { write } = channel;
  channel.write = () => {};
  logs.install();
  loader.prepare(__dirname);
  const handler = await loader.load(__dirname, 'rehearsal.handler');
  const meta = { requestId: '', deadlineMs: 0, functionArn: '' };
  await new Promise((next) => { invocation.run(handler, meta, '{"a":[1]}', next); });
  invocation.forget();
  delete require.cache[require.resolve('./rehearsal.cjs')];
  require('./code_cache.cjs');
  channel.write = write;
}

function begin() {
  channel.write(channel.kind.BOOTED, null);
  serve();
}

// The platform says so where the function is not known yet, and there is time.
if (process.env._DUNLIN_AHEAD) {
  delete process.env._DUNLIN_AHEAD;
  rehearse().then(begin);
} else begin();
