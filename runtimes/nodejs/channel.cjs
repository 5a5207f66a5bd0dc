//! Frames on descriptor 3, by blocking reads and writes.
//!
//! It does not know what a frame means. The socket keeps the bounds of writes: a frame is written in messages of at most
//! `MESSAGE_BYTES`, and every read has room for a whole one. Large frames are read straight into a buffer of their size:
//! nothing is copied twice.
//!
//! Frames of a stream may have to wait for a slow reader. They are written beside the event loop, which goes on meanwhile
//! (`writeLater`); until such a frame is out nothing else may be written, see `whenIdle`.

'use strict';

const fs = require('fs');

const DESCRIPTOR = 3;
const MESSAGE_BYTES = 32 * 1024;
const CHUNK_BYTES = 2 * MESSAGE_BYTES;
const HEADER_BYTES = 5;
/** Longest body of a frame that is one message. */
const PIECE_BYTES = MESSAGE_BYTES - HEADER_BYTES;

/** Kinds of frames, as in the table of `guest_protocol.rs`. */
const kind = Object.freeze({ LOAD: 1, INVOKE: 2, COMPILE: 4, BOOTED: 15, READY: 16, INIT_ERROR: 17, RESPONSE: 18, ERROR: 19, BEGIN: 20, CHUNK: 21, END: 22, LINGER: 23 });

const incoming = Buffer.allocUnsafeSlow(CHUNK_BYTES);
const outgoing = Buffer.allocUnsafeSlow(CHUNK_BYTES);
let start = 0;
let end = 0;
let sleeper = null;
let busy = false;
let idle = [];

/** Waits a moment: for a descriptor that somebody made non-blocking. */
function pause() {
  if (sleeper === null) sleeper = new Int32Array(new SharedArrayBuffer(4));
  Atomics.wait(sleeper, 0, 0, 1);
}

function readSome(buffer, offset, length) {
  for (;;) {
    try {
      return fs.readSync(DESCRIPTOR, buffer, offset, length, null);
    } catch (error) {
      if (error.code === 'ECONNRESET') return 0;
      if (error.code !== 'EAGAIN' && error.code !== 'EINTR') throw error;
      pause();
    }
  }
}

/** Writes all of it, whatever the descriptor's mode. */
function writeAll(descriptor, buffer, length) {
  const most = descriptor === DESCRIPTOR ? MESSAGE_BYTES : length;
  let done = 0;
  while (done < length) {
    try {
      done += fs.writeSync(descriptor, buffer, done, Math.min(length - done, most), null);
    } catch (error) {
      if (error.code !== 'EAGAIN' && error.code !== 'EINTR') throw error;
      pause();
    }
  }
}

/** Moves `bytes` of input into the chunk; false when the other side is gone. */
function fill(bytes) {
  if (start === end) start = end = 0;
  if (start + bytes > CHUNK_BYTES) {
    incoming.copyWithin(0, start, end);
    end -= start;
    start = 0;
  }
  while (end - start < bytes) {
    const count = readSome(incoming, end, CHUNK_BYTES - end);
    if (count === 0) return false;
    end += count;
  }
  return true;
}

/**
 * The next frame, or null when the platform has closed the channel. Its body is what `buffer` holds from `start` to `end`,
 * valid until the next call.
 */
function read() {
  if (!fill(4)) return null;
  const length = incoming.readUInt32LE(start);
  if (4 + length <= CHUNK_BYTES) {
    if (!fill(4 + length)) return null;
    const frame = { kind: incoming[start + 4], buffer: incoming, start: start + HEADER_BYTES, end: start + 4 + length };
    start = frame.end;
    return frame;
  }
  const whole = Buffer.allocUnsafeSlow(length);
  let have = incoming.copy(whole, 0, start + 4, end);
  start = end = 0;
  while (have < length) {
    const count = readSome(whole, have, length - have);
    if (count === 0) return null;
    have += count;
  }
  return { kind: whole[0], buffer: whole, start: 1, end: length };
}

/** Writes a frame whose body is `text` (a string, or null for nothing) after the bytes of `prefix`. */
function write(frameKind, text, prefix) {
  const head = HEADER_BYTES + (prefix ? prefix.length : 0);
  const most = head + (text === null ? 0 : text.length * 3);
  const buffer = most <= CHUNK_BYTES ? outgoing : Buffer.allocUnsafeSlow(head + Buffer.byteLength(text, 'utf8'));
  if (prefix) prefix.copy(buffer, HEADER_BYTES);
  const total = head + (text === null ? 0 : buffer.write(text, head, 'utf8'));
  finish(frameKind, buffer, total);
}

/** Writes a frame whose body is each of `parts`. */
function writeParts(frameKind, parts) {
  let total = HEADER_BYTES;
  for (const part of parts) total += part.length;
  const buffer = total <= CHUNK_BYTES ? outgoing : Buffer.allocUnsafeSlow(total);
  let at = HEADER_BYTES;
  for (const part of parts) at += part.copy(buffer, at);
  finish(frameKind, buffer, total);
}

function finish(frameKind, buffer, total) {
  buffer.writeUInt32LE(total - 4, 0);
  buffer[4] = frameKind;
  writeAll(DESCRIPTOR, buffer, total);
}

/**
 * Writes a frame whose body, at most `PIECE_BYTES`, is each of `parts` without holding the event loop; calls `done` when it
 * is out.
 */
function writeLater(frameKind, parts, done) {
  const head = Buffer.allocUnsafe(HEADER_BYTES);
  let length = 1;
  for (const part of parts) length += part.length;
  head.writeUInt32LE(length, 0);
  head[4] = frameKind;
  busy = true;
  writeRest([head, ...parts], (error) => {
    busy = false;
    done(error);
    const waiting = idle;
    idle = [];
    for (const act of waiting) act();
  });
}

function writeRest(parts, done) {
  fs.writev(DESCRIPTOR, parts, null, (error, written) => {
    if (error && error.code !== 'EAGAIN' && error.code !== 'EINTR') return done(error);
    let rest = parts;
    let skip = error ? 0 : written;
    while (rest.length > 0 && skip >= rest[0].length) {
      skip -= rest[0].length;
      rest = rest.slice(1);
    }
    if (rest.length === 0) return done(null);
    rest = [rest[0].subarray(skip), ...rest.slice(1)];
    // Somebody made the descriptor non-blocking: its room is looked for again and again.
    if (error) setTimeout(writeRest, 1, rest, done);
    else writeRest(rest, done);
  });
}

/** Calls `act` when no frame is half written: at once, or after the one that is. */
function whenIdle(act) {
  if (busy) idle.push(act);
  else act();
}

module.exports = { PIECE_BYTES, kind, read, whenIdle, write, writeAll, writeLater, writeParts };
