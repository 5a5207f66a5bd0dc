//! The console in Lambda's log format, text or JSON, straight to descriptor 1.
//!
//! Text: `<ISO time>\t<request id>\t<LEVEL>\t<message>`, line feeds inside a message become carriage returns, so that one
//! call is one log event. A mark before it ends the line that was begun, if there is one (`crates/compute/src/output.rs`).
//! `process.stdout` and `process.stderr` stay as they are: what a function writes there is raw.

'use strict';

const channel = require('./channel.cjs');
const errors = require('./errors.cjs');

const LEVELS = { TRACE: 1, DEBUG: 2, INFO: 3, WARN: 4, ERROR: 5, FATAL: 6 };
const RECORD_MARK = '\x1e\n';
const METHODS = { trace: 'TRACE', debug: 'DEBUG', info: 'INFO', log: 'INFO', warn: 'WARN', error: 'ERROR', fatal: 'FATAL' };
/** Most characters of the words of an error that cannot be written as it is. */
const WORDS_MAX = 64 * 1024;

let requestId;
let tenantId;
let json = false;
let util = null;

/** Puts the methods in place; call it when the function's environment is known. */
function install() {
  json = (process.env.AWS_LAMBDA_LOG_FORMAT || '').toUpperCase() === 'JSON';
  const least = (json && LEVELS[(process.env.AWS_LAMBDA_LOG_LEVEL || '').toUpperCase()]) || LEVELS.TRACE;
  for (const method of Object.keys(METHODS)) {
    const level = METHODS[method];
    console[method] = LEVELS[level] < least ? () => {} : (...values) => emit(level, values);
  }
}

function setRequestId(id, tenant) {
  requestId = id;
  tenantId = tenant;
}

function now() {
  return new Date().toISOString();
}

function emit(level, values) {
  const time = now();
  write(json ? jsonLine(time, level, values) : `${time}\t${requestId}\t${level}\t${format(values)}`);
}

function write(line) {
  const bytes = Buffer.from(`${RECORD_MARK}${line.replace(/\r?\n/g, '\r')}\n`, 'utf8');
  try {
    channel.writeAll(1, bytes, bytes.length);
  } catch (error) {
    // A log that nobody reads any more does not end the function.
    if (error.code !== 'EPIPE' && error.code !== 'EBADF') throw error;
  }
}

function format(values) {
  if (values.length === 1 && typeof values[0] === 'string') return values[0];
  if (util === null) util = require('util');
  return util.format(...values);
}

function jsonLine(timestamp, level, values) {
  const record = { timestamp, level, requestId, tenantId };
  if (values.length <= 1) {
    record.message = values[0];
    try {
      return JSON.stringify(record, describe);
    } catch (_) {
      record.message = format(values);
      return JSON.stringify(record);
    }
  }
  record.message = format(values);
  const error = values.find((value) => errors.isError(value));
  if (error === undefined) return JSON.stringify(record);
  try {
    return JSON.stringify({ ...record, ...describe('', error) });
  } catch (_) {
    // What it carries is circular, or throws.
    return JSON.stringify({ ...record, ...members(error) });
  }
}

/** An error's own words, as the members that JSON has for them. */
function members(error) {
  const { errorType, errorMessage, trace: stackTrace } = errors.document(error);
  return { errorType, errorMessage, stackTrace };
}

function describe(_key, value) {
  if (!(value instanceof Error)) return value;
  return {
    errorType: (value.constructor && value.constructor.name) || 'UnknownError',
    errorMessage: value.message,
    stackTrace: typeof value.stack === 'string' ? value.stack.split('\n') : [],
    ...value,
  };
}

/** The log event of a failed init or invocation: a title and the error with everything it carries. Never throws for what was thrown. */
function failure(title, thrown) {
  try {
    const error = errors.isError(thrown) ? thrown : new Error(String(thrown));
    if (json) emit('ERROR', [title, error]);
    else emit('ERROR', [`${title} \t${enumerated(error)}`]);
  } catch (_) {
    const { errorType, errorMessage } = errors.document(thrown);
    const words = { errorType, errorMessage: errorMessage.slice(0, WORDS_MAX) };
    if (json) write(JSON.stringify({ timestamp: now(), level: 'ERROR', requestId, tenantId, message: title, ...words }));
    else emit('ERROR', [`${title} \t${JSON.stringify(words)}`]);
  }
}

function enumerated(error) {
  try {
    return JSON.stringify(error, (_key, value) => {
      if (!(value instanceof Error)) return value;
      const all = { errorType: value.name, errorMessage: value.message, code: value.code, ...value };
      if (typeof value.stack === 'string') all.stack = value.stack.split('\n');
      return all;
    });
  } catch (_) {
    return JSON.stringify(errors.document(error));
  }
}

module.exports = { failure, install, setRequestId };
