// The probe in JavaScript: a handler that does what its event says, as `tests/sdk/behaviour/__init__.py` describes it.
'use strict';

const crypto = require('crypto');
const fs = require('fs');

const who = crypto.randomUUID();
let calls = 0;

class ProbeError extends Error {
  constructor(message) {
    super(message);
    this.name = 'ProbeError';
  }
}

const nap = (ms) => new Promise((done) => setTimeout(done, ms));

function facts(context) {
  return {
    id: context.awsRequestId, name: context.functionName, version: context.functionVersion, memory: context.memoryLimitInMB,
    arn: context.invokedFunctionArn, group: context.logGroupName, stream: context.logStreamName,
    left: context.getRemainingTimeInMillis(), client: context.clientContext ? context.clientContext.custom : null,
  };
}

function files() {
  fs.appendFileSync('/tmp/notes', 'x');
  let refused = false;
  try {
    fs.writeFileSync('/var/task/new', '');
  } catch {
    refused = true;
  }
  return {
    who, folder: process.cwd(), notes: fs.readFileSync('/tmp/notes').length, refused, data: fs.readFileSync('/var/task/data.txt', 'utf8'),
  };
}

async function act(event, context) {
  calls += 1;
  if (event && event.requestContext) {
    return { statusCode: 200, headers: { 'content-type': 'application/octet-stream' }, isBase64Encoded: true, body: event.body };
  }
  if (event && ['raise', 'exit', 'signal', 'spin', 'allocate'].includes(event.do)) process.stdout.write(`at ${who}\n`);
  const held = [];
  switch (event && event.do) {
    case 'raise': throw new ProbeError(event.message);
    case 'exit': return process.exit(event.code);
    case 'signal': process.kill(process.pid, event.number); return nap(5000);
    case 'allocate': for (;;) held.push(Buffer.alloc(8 << 20, 1));
    case 'spin': for (;;);
    case 'sleep': await nap(event.ms); // Then as for `count`.
    case 'count': return { who, calls };
    case 'environment': return process.env;
    case 'context': return facts(context);
    case 'print':
      for (const line of event.lines) process.stdout.write(`${line}\n`);
      process.stderr.write('to stderr\n');
      return null;
    case 'large': return 'x'.repeat(event.bytes);
    case 'files': return files();
    default: return event;
  }
}

async function pieces(event, stream) {
  stream.setContentType('text/plain');
  if (event.message) throw new ProbeError(event.message);
  stream.write('first ');
  await nap(event.ms);
  stream.end('last');
}

function begin(what) {
  if (what === 'raise') throw new ProbeError('at the start');
  if (what === 'exit') process.exit(5);
  if (what === 'hang') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60_000);
}

begin(process.env.PROBE_INIT);
module.exports = { handler: act, stream: awslambda.streamifyResponse(pieces) };
