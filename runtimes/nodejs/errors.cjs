//! Error documents as Node.js functions on Lambda give them, and the error types that the guest itself raises.
//!
//! A document is `{"errorType","errorMessage","trace"}`. It never throws: a value whose properties throw still gives one.

'use strict';

/** Most bytes of an answer, JSON included: 6 MiB and what Lambda allows beyond. */
const PAYLOAD_BYTES_MAX = 6291556;

const UNREADABLE = 'the error cannot be read: it throws when it is asked for its name, message, stack or text';

function guestError(name) {
  return class extends Error {
    constructor(message) {
      super(message);
      this.name = name;
    }
  };
}

const MalformedHandlerName = guestError('Runtime.MalformedHandlerName');
const HandlerNotFound = guestError('Runtime.HandlerNotFound');
const MalformedStreamingHandler = guestError('Runtime.MalformedStreamingHandler');
const CallbackHandlerDeprecated = guestError('Runtime.CallbackHandlerDeprecated');
const InvalidStreamingOperation = guestError('Runtime.InvalidStreamingOperation');

/** An error that stands for the function's own, with its stack below. */
function wrapping(name) {
  return class extends Error {
    constructor(cause) {
      super(String(cause));
      this.name = name;
      if (cause instanceof Error && typeof cause.stack === 'string') this.stack = `${name}: ${cause}\n${frames(cause)}`;
    }
  };
}

/** A syntax error's stack begins with the place in the file: it is kept. */
function frames(error) {
  const own = error.stack.indexOf(`\n    at `);
  const text = error instanceof SyntaxError ? error.stack : own < 0 ? '' : error.stack.slice(own + 1);
  return text;
}

const UserCodeSyntaxError = wrapping('Runtime.UserCodeSyntaxError');
const ImportModuleError = wrapping('Runtime.ImportModuleError');

class UnhandledPromiseRejection extends Error {
  constructor(reason) {
    super(isError(reason) ? textOf(reason) : safeString(reason));
    this.name = 'Runtime.UnhandledPromiseRejection';
    this.reason = reason;
  }
}

function safeString(value) {
  try {
    return String(typeof value === 'object' && value !== null ? JSON.stringify(value) : value);
  } catch (_) {
    return textOf(value);
  }
}

/** A value's text, or words for one that has none. */
function textOf(value) {
  try {
    return String(value);
  } catch (_) {
    return UNREADABLE;
  }
}

/** The document of anything that was thrown, rejected or handed to a callback. */
function document(thrown) {
  try {
    if (isError(thrown)) {
      return {
        errorType: clean(thrown.name),
        errorMessage: clean(thrown.message),
        trace: typeof thrown.stack === 'string' ? clean(thrown.stack).split('\n') : [],
      };
    }
    return { errorType: typeof thrown, errorMessage: String(thrown), trace: [] };
  } catch (_) {
    return { errorType: 'handled', errorMessage: UNREADABLE, trace: [] };
  }
}

/** Whether a value is an error, of this realm or another. Both questions are answered by the value itself where it is a proxy. */
function isError(value) {
  try {
    return value instanceof Error || Object.prototype.toString.call(value) === '[object Error]';
  } catch (_) {
    return false;
  }
}

/** DEL is not allowed where a document may travel in a header. */
function clean(text) {
  return String(text).replace(/\x7f/g, '%7F');
}

/** An answer that is longer than a payload may be: it is the platform that refuses it, for every runtime in the same words. */
const TOO_LARGE = {
  errorType: 'Function.ResponseSizeTooLarge',
  errorMessage: `Response payload size exceeded maximum allowed payload size (${PAYLOAD_BYTES_MAX} bytes).`,
};

/** A document as the text of a frame, never longer than a payload may be. */
function encode(value) {
  let text;
  try {
    text = JSON.stringify(value);
  } catch (_) {
    // Longer than any string.
    return JSON.stringify(TOO_LARGE);
  }
  return text.length * 3 > PAYLOAD_BYTES_MAX && Buffer.byteLength(text) > PAYLOAD_BYTES_MAX
    ? JSON.stringify(TOO_LARGE)
    : text;
}

module.exports = {
  PAYLOAD_BYTES_MAX,
  CallbackHandlerDeprecated,
  HandlerNotFound,
  ImportModuleError,
  InvalidStreamingOperation,
  MalformedHandlerName,
  MalformedStreamingHandler,
  UnhandledPromiseRejection,
  UserCodeSyntaxError,
  document,
  encode,
  isError,
  TOO_LARGE,
};
