//! Drives the guest as a child process over a socket pair on its descriptor 3, as the platform does.
//!
//! Not part of the guest. `run` is what most tests need: files, a handler string and events in, frames and log out.

'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

const BOOTSTRAP = path.join(__dirname, '..', 'bootstrap.cjs');
const BOOTED = 15;
const KINDS = { 16: 'READY', 17: 'INIT_ERROR', 18: 'RESPONSE', 19: 'ERROR', 20: 'BEGIN', 21: 'CHUNK', 22: 'END', 23: 'LINGER' };

function frame(kind, ...parts) {
  const body = Buffer.concat(parts);
  const head = Buffer.alloc(5);
  head.writeUInt32LE(body.length + 1, 0);
  head[4] = kind;
  return Buffer.concat([head, body]);
}

class Guest {
  constructor(environment = {}) {
    this.child = spawn(process.execPath, [BOOTSTRAP], {
      env: { PATH: process.env.PATH, ...environment },
      stdio: ['ignore', 'pipe', 'pipe', 'pipe'],
    });
    this.channel = this.child.stdio[3];
    this.log = '';
    this.pending = Buffer.alloc(0);
    this.frames = [];
    this.waiting = [];
    this.ended = false;
    for (const output of [this.child.stdout, this.child.stderr]) {
      output.setEncoding('utf8');
      output.on('data', (text) => (this.log += text));
    }
    this.channel.on('data', (bytes) => this.take(bytes));
    this.channel.on('error', () => {});
    this.channel.on('close', () => {
      this.ended = true;
      this.hand();
    });
    this.exit = new Promise((resolve) => this.child.on('close', (code, signal) => resolve(signal || code)));
  }

  take(bytes) {
    this.pending = Buffer.concat([this.pending, bytes]);
    while (this.pending.length >= 4 && this.pending.length >= 4 + this.pending.readUInt32LE(0)) {
      const end = 4 + this.pending.readUInt32LE(0);
      // The first frame of every guest says only that it is up.
      if (this.pending[4] !== BOOTED) this.frames.push(decode(this.pending[4], this.pending.subarray(5, end)));
      this.pending = this.pending.subarray(end);
    }
    this.hand();
  }

  hand() {
    while (this.waiting.length > 0 && (this.frames.length > 0 || this.ended)) {
      this.waiting.shift()(this.frames.length > 0 ? this.frames.shift() : null);
    }
  }

  /** The next frame; null when the guest has ended. */
  next() {
    const promise = new Promise((resolve) => this.waiting.push(resolve));
    this.hand();
    return promise;
  }

  loadBytes(root, handler, environment = {}, caches = undefined) {
    return frame(1, Buffer.from(JSON.stringify({ root, handler, environment, cold: true, caches })));
  }

  invokeBytes(event, meta = {}) {
    const fields = { requestId: 'request-1', deadlineMs: Date.now() + 3000, functionArn: 'arn:aws:lambda:f', ...meta };
    const text = Buffer.from(JSON.stringify(fields));
    const length = Buffer.alloc(4);
    length.writeUInt32LE(text.length, 0);
    return frame(2, length, text, Buffer.isBuffer(event) ? event : Buffer.from(JSON.stringify(event)));
  }

  load(...order) {
    this.channel.write(this.loadBytes(...order));
    return this.next();
  }

  invoke(event, meta) {
    this.channel.write(this.invokeBytes(event, meta));
    return this.answer();
  }

  /** The next frame, or a streamed answer with all its pieces; one that failed half way is its ERROR. */
  async answer() {
    const first = await this.next();
    if (first !== null && first.kind === 'LINGER') return { ...(await this.answer()), lingers: true };
    if (first === null || first.kind !== 'BEGIN') return first;
    const pieces = [];
    let lingers = false;
    for (;;) {
      const frame = await this.next();
      if (frame !== null && frame.kind === 'CHUNK') pieces.push(frame.payload);
      else if (frame !== null && frame.kind === 'LINGER') lingers = true;
      else if (frame === null || frame.kind !== 'END') return frame && { ...frame, pieces, lingers };
      else break;
    }
    const payload = Buffer.concat(pieces);
    return { kind: 'STREAM', type: first.type, pieces, lingers, payload, text: payload.toString('utf8') };
  }

  /** Closes the channel; resolves to the exit code. */
  close() {
    this.channel.end();
    return this.exit;
  }
}

function decode(kind, body) {
  const name = KINDS[kind] || kind;
  if (name === 'RESPONSE') {
    const length = body.readUInt32LE(4);
    const payload = Buffer.from(body.subarray(8 + length));
    const type = body.toString('utf8', 8, 8 + length);
    return { kind: name, runUs: body.readUInt32LE(0), type, payload, text: payload.toString('utf8') };
  }
  if (name === 'BEGIN') return { kind: name, type: body.toString('utf8') };
  if (name === 'CHUNK') return { kind: name, payload: Buffer.from(body) };
  return { kind: name, document: body.length === 0 ? null : JSON.parse(body.toString('utf8')) };
}

/** A new folder with these files; removed when the test ends. */
function folder(test, files) {
  const root = fs.realpathSync(fs.mkdtempSync(path.join(os.tmpdir(), 'guest-')));
  test.after(() => fs.rmSync(root, { recursive: true, force: true }));
  for (const name of Object.keys(files)) {
    fs.mkdirSync(path.dirname(path.join(root, name)), { recursive: true });
    fs.writeFileSync(path.join(root, name), files[name]);
  }
  return root;
}

/** The output as its lines are read (`crates/compute/src/output.rs`): a mark before an event ends the line that was begun. */
function readLog(text) {
  return text.replace(/^\x1e\n/gm, '').replace(/\x1e\n/g, '\n');
}

/** Loads, invokes with each event in turn, closes. Stops early when the guest ends. */
async function run(test, { files, handler = 'index.handler', events = [{}], environment = {}, meta }) {
  const root = folder(test, files);
  const guest = new Guest();
  const loaded = await guest.load(root, handler, { AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs20.x', ...environment });
  const answers = [];
  if (loaded !== null && loaded.kind === 'READY') {
    for (const event of events) {
      const answer = await guest.invoke(event, meta);
      answers.push(answer);
      if (answer === null) break;
    }
  }
  const exit = await guest.close();
  return { root, loaded, answers, log: readLog(guest.log), exit };
}

module.exports = { Guest, folder, frame, readLog, run };
