//! Response streams: what a handler wrapped by `awslambda.streamifyResponse` writes to.
//!
//! The first write sends BEGIN with the content type, each write its bytes as CHUNK frames, the end END. The platform takes
//! the next frame when the caller has taken the one before: `write` returns false and `drain` comes as with any stream.
//! Whether pieces reach the caller one by one or together is the platform's business. Loaded only for functions that stream.

'use strict';

const { Writable } = require('stream');
const channel = require('./channel.cjs');
const errors = require('./errors.cjs');
const { promiseOf } = require('./invocation.cjs');

const PRELUDE_TYPE = 'application/vnd.awslambda.http-integration-response';
const DEFAULT_TYPE = 'application/octet-stream';
const HIGH_WATER_MARK = Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark');
/** What the socket surely takes without waiting: so much is written at once, without a detour over another thread. */
const QUICK_BYTES = 32 * 1024;
const QUICK_WRITES = 16;

class ResponseStream extends Writable {
  constructor(highWaterMark) {
    super(highWaterMark ? { highWaterMark } : {});
    this.contentType = DEFAULT_TYPE;
    this.prelude = null;
    this.begun = false;
    this.given = false;
    this.cut = false;
    this.sent = 0;
    this.writes = 0;
  }

  setContentType(type) {
    // Buffered writes count: the type belongs before the first of them.
    if (this.given || this.begun) throw new errors.InvalidStreamingOperation('Cannot set content-type, too late.');
    this.contentType = String(type);
  }

  write(chunk, ...rest) {
    this.given = true;
    // Anything that is neither text nor bytes is sent as its JSON, as a convenience that handlers rely on.
    const plain = typeof chunk === 'string' || chunk instanceof Uint8Array;
    return super.write(plain || chunk === null || chunk === undefined ? chunk : JSON.stringify(chunk), ...rest);
  }

  _write(chunk, _encoding, done) {
    this.send([chunk], done);
  }

  _writev(entries, done) {
    this.send(entries.map((entry) => entry.chunk), done);
  }

  _final(done) {
    this.begin();
    done();
  }

  begin() {
    if (this.begun || this.cut) return;
    this.begun = true;
    channel.write(channel.kind.BEGIN, this.contentType);
    if (this.prelude !== null) this.sendNow([this.prelude], this.prelude.length);
  }

  /** Sends bytes in frames of a bounded size, the next when the one before is out. */
  send(chunks, done) {
    this.begin();
    const frames = framed(chunks);
    const next = (error) => {
      if (error) return done(error);
      // After a failure nothing more belongs to the answer.
      if (this.cut || frames.length === 0) return done();
      const { parts, bytes } = frames.shift();
      if (this.sent + bytes > QUICK_BYTES || this.writes >= QUICK_WRITES) {
        return channel.writeLater(channel.kind.CHUNK, parts, next);
      }
      this.sendNow(parts, bytes);
      return next();
    };
    next();
  }

  sendNow(parts, bytes) {
    this.sent += bytes;
    this.writes += 1;
    channel.writeParts(channel.kind.CHUNK, parts);
  }
}

/** Chunks as bodies of frames: small ones together, large ones in parts. */
function framed(chunks) {
  const frames = [];
  let last = null;
  for (const chunk of chunks) {
    const bytes = Buffer.isBuffer(chunk) ? chunk : Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    for (let at = 0; at < bytes.length; ) {
      if (last === null || last.bytes === channel.PIECE_BYTES) frames.push((last = { parts: [], bytes: 0 }));
      const part = bytes.subarray(at, at + channel.PIECE_BYTES - last.bytes);
      last.parts.push(part);
      last.bytes += part.length;
      at += part.length;
    }
  }
  return frames;
}

const HttpResponseStream = {
  /** Puts status, headers and cookies before what is written: their JSON and eight NUL bytes. */
  from(stream, metadata) {
    stream.setContentType(PRELUDE_TYPE);
    stream.prelude = Buffer.concat([Buffer.from(JSON.stringify(metadata), 'utf8'), Buffer.alloc(8)]);
    return stream;
  },
};

/** Runs a streaming handler and ends its answer when its promise and its stream are both done. */
function run(handler, event, context, answer) {
  const stream = new ResponseStream(handler.call[HIGH_WATER_MARK]);
  context.callbackWaitsForEmptyEventLoop = true;
  let settled = false;
  const settle = (act) => {
    if (settled) return;
    settled = true;
    answer.whenEmpty = null;
    channel.whenIdle(act);
  };
  const fail = (error) => {
    stream.cut = true;
    settle(() => answer.fail(error));
  };
  stream.on('error', fail);
  // When the event loop is empty nothing is left that could end the stream.
  answer.whenEmpty = () => fail(new Error('Response stream is not finished.'));
  // Taken out of the object first: the handler is called as a plain function.
  const { call } = handler;
  let promise;
  try {
    promise = promiseOf(call(event, stream, context));
  } catch (error) {
    fail(error);
    return;
  }
  if (promise === null) {
    fail('Streaming does not support non-async handlers.');
    return;
  }
  promise.then((value) => {
    if (value !== undefined) console.warn('Streaming handlers ignore return values.');
    whenFinished(stream, () => settle(() => answer.endStream()));
  }, fail);
}

function whenFinished(stream, succeed) {
  if (stream.writableFinished) succeed();
  else stream.once('finish', succeed);
}

/** Resolves when nothing of a stream is left to write. */
function settled(stream) {
  return new Promise((resolve) => {
    const idle = () => channel.whenIdle(resolve);
    if (stream.cut || stream.writableFinished) idle();
    else stream.once('finish', idle);
  });
}

module.exports = { HttpResponseStream, ResponseStream, run, settled };
