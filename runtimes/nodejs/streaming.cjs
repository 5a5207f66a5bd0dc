//! Response streams: what a handler wrapped by `awslambda.streamifyResponse` writes to.
//!
//! The stream is collected and sent as one RESPONSE with its content type when it has ended. Not more than a payload's
//! size is kept. Loaded only for functions that stream.

'use strict';

const { Writable } = require('stream');
const errors = require('./errors.cjs');

const PRELUDE_TYPE = 'application/vnd.awslambda.http-integration-response';
const DEFAULT_TYPE = 'application/octet-stream';
const HIGH_WATER_MARK = Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark');

class ResponseStream extends Writable {
  constructor(highWaterMark) {
    super(highWaterMark ? { highWaterMark } : {});
    this.contentType = DEFAULT_TYPE;
    this.parts = [];
    this.bytes = 0;
    this.prelude = null;
  }

  setContentType(type) {
    if (this.parts.length > 0) {
      throw new errors.InvalidStreamingOperation('Cannot set content-type, too late.');
    }
    this.contentType = String(type);
  }

  write(chunk, ...rest) {
    // Anything that is neither text nor bytes is sent as its JSON, as a convenience that handlers rely on.
    const plain = typeof chunk === 'string' || chunk instanceof Uint8Array;
    return super.write(plain || chunk === null || chunk === undefined ? chunk : JSON.stringify(chunk), ...rest);
  }

  _write(chunk, _encoding, done) {
    this.begin();
    this.keep(chunk);
    done();
  }

  _final(done) {
    this.begin();
    done();
  }

  begin() {
    const prelude = this.prelude;
    this.prelude = null;
    if (prelude !== null) this.keep(prelude);
  }

  keep(chunk) {
    this.bytes += chunk.length;
    if (this.bytes > errors.PAYLOAD_BYTES_MAX) this.parts = [chunk];
    else this.parts.push(chunk);
  }
}

const HttpResponseStream = {
  /** Puts status, headers and cookies before what is written: their JSON and eight NUL bytes. */
  from(stream, metadata) {
    stream.setContentType(PRELUDE_TYPE);
    stream.prelude = Buffer.concat([Buffer.from(JSON.stringify(metadata), 'utf8'), Buffer.alloc(8)]);
    return stream;
  },
};

/** Runs a streaming handler and answers when its promise and its stream are both done. */
function run(handler, event, context, answer) {
  const stream = new ResponseStream(handler.call[HIGH_WATER_MARK]);
  context.callbackWaitsForEmptyEventLoop = true;
  let settled = false;
  const fail = (error) => {
    if (settled) return;
    settled = true;
    answer.fail(error);
  };
  stream.on('error', fail);
  // When the event loop is empty nothing is left that could end the stream.
  answer.whenEmpty = () => fail(new Error('Response stream is not finished.'));
  // Taken out of the object first: the handler is called as a plain function.
  const { call } = handler;
  let result;
  try {
    result = call(event, stream, context);
  } catch (error) {
    fail(error);
    return;
  }
  if (result === null || result === undefined || typeof result.then !== 'function') {
    fail('Streaming does not support non-async handlers.');
    return;
  }
  result.then((value) => {
    if (value !== undefined) console.warn('Streaming handlers ignore return values.');
    whenFinished(stream, () => {
      if (settled) return;
      settled = true;
      answer.stream(stream.contentType, stream.parts, stream.bytes);
    });
  }, fail);
}

function whenFinished(stream, succeed) {
  if (stream.writableFinished) succeed();
  else stream.once('finish', succeed);
}

module.exports = { HttpResponseStream, run };
