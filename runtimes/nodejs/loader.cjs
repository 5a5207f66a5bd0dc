//! From a handler string (`folder/file.export.nested`) to a function, in the order in which Lambda looks for files.
//!
//! | tried, below the folder          | how     | when                                              |
//! |----------------------------------|---------|---------------------------------------------------|
//! | `<module>` with no extension     | require | always                                            |
//! | `<module>.js`                    | require | the nearest package.json is not of type `module`  |
//! | `<module>.js`                    | import  | it is                                             |
//! | `<module>.mjs`                   | import  | always                                            |
//! | `<module>.cjs`                   | require | always                                            |
//! | `<module>/`, a folder            | require | always                                            |
//! | a package of that name           | require | always: below the root, the folder, or in a layer |

'use strict';

const fs = require('fs');
const path = require('path');
const errors = require('./errors.cjs');

const STREAMING = Symbol.for('aws.lambda.runtime.handler.streaming');
const HIGH_WATER_MARK = Symbol.for('aws.lambda.runtime.handler.streaming.highWaterMark');
const LAST_CALLBACK_MAJOR = 22;

/** Makes the environment of LOAD take effect: module paths of layers, and the global `awslambda`. */
function prepare(root) {
  const Module = require('module');
  const major = process.versions.node.split('.')[0];
  if (!process.env.NODE_PATH) {
    process.env.NODE_PATH = [
      `/opt/nodejs/node${major}/node_modules`,
      '/opt/nodejs/node_modules',
      '/var/runtime/node_modules',
      '/var/runtime',
      root,
    ].join(':');
  }
  // Node reads NODE_PATH when it starts, which may be before the function is known.
  Module._initPaths();
  globalThis.awslambda = {
    streamifyResponse(handler, options) {
      handler[STREAMING] = 'response';
      if (options && options.highWaterMark !== undefined) handler[HIGH_WATER_MARK] = parseInt(options.highWaterMark, 10);
      return handler;
    },
    get HttpResponseStream() {
      return require('./streaming.cjs').HttpResponseStream;
    },
  };
}

/** Whether a handler of this runtime may take a callback: the identifier that the user chose decides. */
function takesCallbacks() {
  const match = /nodejs(\d+)/.exec(process.env.AWS_EXECUTION_ENV || '');
  const major = match ? Number(match[1]) : Number(process.versions.node.split('.')[0]);
  return major <= LAST_CALLBACK_MAJOR;
}

/** Resolves to `{ call, streaming, callbacks }`, or to `{ fetch }`, an object that has a method of this name. */
async function load(root, name) {
  if (name.includes('..')) {
    throw new errors.MalformedHandlerName(
      `'${name}' is not a valid handler name. Use absolute paths when specifying root directories in handler names.`,
    );
  }
  const base = path.basename(name);
  const dot = base.indexOf('.');
  if (dot < 0) throw new errors.MalformedHandlerName('Bad handler');
  const folder = name.slice(0, name.lastIndexOf(base));
  const found = await find(root, folder, base.slice(0, dot));
  const call = select(found, base.slice(dot + 1));
  const web = webHandler(call, found, base.slice(dot + 1));
  if (web) return { fetch: web };
  if (!call) throw new errors.HandlerNotFound(`${name} is undefined or not exported`);
  if (typeof call !== 'function') throw new errors.HandlerNotFound(`${name} is not a function`);
  const handler = { call, streaming: isStreaming(call), callbacks: takesCallbacks() };
  if (!handler.callbacks && !handler.streaming && call.length >= 3) {
    throw new errors.CallbackHandlerDeprecated(
      'Handlers that take a callback as their third parameter are not supported by Node.js 24 and later runtimes. ' +
        'Return a value or a promise instead, or choose nodejs22.x.',
    );
  }
  return handler;
}

async function find(root, folder, name) {
  try {
    return await firstOf(path.resolve(root, folder, name), root, folder, name);
  } catch (error) {
    if (error instanceof SyntaxError) throw new errors.UserCodeSyntaxError(error);
    if (error && (error.code === 'MODULE_NOT_FOUND' || error.code === 'ERR_MODULE_NOT_FOUND')) {
      throw new errors.ImportModuleError(error);
    }
    throw error;
  }
}

async function firstOf(file, root, folder, name) {
  if (isFile(file)) return require(file);
  const script = `${file}.js`;
  if (isFile(script)) return isModule(script) ? importFile(script) : require(script);
  if (isFile(`${file}.mjs`)) return importFile(`${file}.mjs`);
  if (isFile(`${file}.cjs`)) return require(`${file}.cjs`);
  if (fs.existsSync(file)) return require(file);
  return require(require.resolve(name, { paths: [root, path.join(root, folder)] }));
}

function importFile(file) {
  return import(require('url').pathToFileURL(file).href);
}

function isFile(file) {
  try {
    return fs.statSync(file).isFile();
  } catch (_) {
    return false;
  }
}

/** Whether Node takes this `.js` file for an ES module, by the nearest package.json. */
function isModule(file) {
  for (let folder = path.dirname(file); ; folder = path.dirname(folder)) {
    if (path.basename(folder) === 'node_modules') return false;
    let text = null;
    try {
      text = fs.readFileSync(path.join(folder, 'package.json'), 'utf8');
    } catch (_) {
      // No readable package.json here: the folder above decides.
    }
    if (text !== null) return JSON.parse(text).type === 'module';
    if (folder === path.dirname(folder)) return false;
  }
}

/** The export at `a.b.c`; an ES module's default export is looked into when it has no such name itself. */
function select(exported, name) {
  const walk = (from) => name.split('.').reduce((value, key) => (value ? value[key] : undefined), from);
  return walk(exported) || (exported && exported.default ? walk(exported.default) : undefined);
}

/** The object whose method `fetch` answers: what the handler string names, else the module's default export. */
function webHandler(named, exported, name) {
  const answers = (value) => typeof value === 'object' && value !== null && typeof value.fetch === 'function';
  const web = [named, exported && exported.default, name === 'default' ? exported : null].find(answers);
  if (!web || typeof named === 'function') return null;
  if (typeof Request !== 'function') throw new errors.HandlerNotFound('Handlers with a fetch method need Node.js 18 or newer');
  return web;
}

function isStreaming(call) {
  const mark = call[STREAMING];
  if (mark === undefined || mark === null || mark === false) return false;
  if (mark !== 'response') throw new errors.MalformedStreamingHandler('Only response streaming is supported.');
  return true;
}

module.exports = { load, prepare };
