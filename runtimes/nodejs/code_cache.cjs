//! What V8 and Node make of a package's files, made once and used by every start after that: compiled code, sources, and
//! which file a `require` means.
//!
//! The platform keeps packages where nobody can write, and nothing in them changes. `make` loads the function's module in
//! a sandbox that holds the package and its layers and nothing of a function (`code_cache.rs` says whom that may
//! serve). `use` answers from it what Node would otherwise look up, read and compile. Files that are not in it are loaded
//! as ever, and so are all where a program has put a compiler of its own in the way.
//!
//! cache = MAGIC | length of all: u32 | length of the head: u32 | head: JSON | data | what the platform adds
//! head  = { node, packs: […], files: [[path, kind, source at, length, code at, length], …], links: { folder: { request: path } } }
//!
//! ES modules go their usual way: Node has no place for compiled code of theirs. So do scripts that call `import()`.

'use strict';

const fs = require('fs');
const Module = require('module');
const path = require('path');
const vm = require('vm');

const MAGIC = 'dunlin 1';
const HEAD_BYTES = MAGIC.length + 8;
const CHUNK_BYTES = 1 << 20;
const CODE = 1;
const CODE_ASCII = 2;
const JSON_TEXT = 3;
/** Where nothing changes while the sandbox lives. */
const ROOTS = ['/var/task/', '/opt/', '/var/runtime/'];
/** What operators may replace while packages stay; links to what is there. */
const PACKS = ['/var/runtime/node_modules', '/var/runtime/nodejs16/node_modules'];
const [BEFORE, AFTER] = Module.wrapper;
const native = { compile: Module.prototype._compile, js: Module._extensions['.js'], json: Module._extensions['.json'], resolve: Module._resolveFilename };

function packs() {
  return PACKS.map((place) => {
    try {
      return fs.readlinkSync(place);
    } catch (_) {
      return null;
    }
  });
}

function isFixed(file, roots) {
  return roots.some((root) => file.startsWith(root));
}

function compiled(filename, source, cachedData) {
  return new vm.Script(BEFORE + source + AFTER, { filename, columnOffset: -BEFORE.length, cachedData });
}

/** Whether a script of ours is to a program what Node's own would be: in one from a cache `import()` leads nowhere. */
function isPlain(source) {
  return !source.startsWith('#!') && !/\bimport\b[^'"`;]*\(/.test(source);
}

/** The `require` of a module, as Node gives it. */
function requireOf(module) {
  const require = (id) => module.require(id);
  require.resolve = (request, options) => Module._resolveFilename(request, module, false, options);
  require.resolve.paths = (request) => Module._resolveLookupPaths(request, module);
  require.main = process.mainModule;
  require.extensions = Module._extensions;
  require.cache = Module._cache;
  return require;
}

function run(module, filename, script) {
  const call = script.runInThisContext({ displayErrors: true });
  return Reflect.apply(call, module.exports, [module.exports, requireOf(module), module, filename, path.dirname(filename)]);
}

/** Watches a module being loaded; `found` fills with what a cache is made from. */
function watch(roots) {
  const found = { files: new Map(), links: {} };
  Module.prototype._compile = function compile(source, filename) {
    if (!isFixed(filename, roots) || !isPlain(source)) return native.compile.call(this, source, filename);
    const script = compiled(filename, source);
    found.files.set(filename, { source, script });
    return run(this, filename, script);
  };
  Module._extensions['.json'] = (module, filename) => {
    native.json(module, filename);
    if (isFixed(filename, roots)) found.files.set(filename, { source: fs.readFileSync(filename, 'utf8') });
  };
  Module._resolveFilename = function resolve(request, parent, isMain, options) {
    const file = native.resolve.call(this, request, parent, isMain, options);
    if (options === undefined && parent && parent.filename && isFixed(file, roots)) {
      const folder = path.dirname(parent.filename);
      (found.links[folder] = found.links[folder] || {})[request] = file;
    }
    return file;
  };
  return found;
}

function encode({ files, links }) {
  const head = { node: process.version, packs: packs(), files: [], links };
  const data = [];
  let at = 0;
  const put = (bytes) => {
    data.push(bytes);
    at += bytes.length;
    return [at - bytes.length, bytes.length];
  };
  for (const [file, { source, script }] of files) {
    const text = Buffer.from(source, 'utf8');
    // One byte for each character: then it need not be decoded.
    const kind = !script ? JSON_TEXT : text.length === source.length ? CODE_ASCII : CODE;
    head.files.push([file, kind, ...put(text), ...(script ? put(script.createCachedData()) : [0, 0])]);
  }
  const text = Buffer.from(JSON.stringify(head), 'utf8');
  const lengths = Buffer.alloc(8);
  lengths.writeUInt32LE(HEAD_BYTES + text.length + at, 0);
  lengths.writeUInt32LE(text.length, 4);
  return Buffer.concat([Buffer.from(MAGIC), lengths, text, ...data]);
}

/**
 * Loads the module that `order` names (`roots` are others than the platform's in tests) and gives what is to be kept of that to `send` in pieces; then ends the process.
 * The module may fail, or end the process itself: what was loaded until then is kept all the same.
 */
function make(order, loader, send) {
  require('os').setPriority(19);
  const found = watch(order.roots || ROOTS);
  process.removeAllListeners('beforeExit');
  for (const event of ['uncaughtException', 'unhandledRejection']) {
    process.removeAllListeners(event);
    process.on(event, () => process.exit(0));
  }
  process.on('exit', () => {
    const whole = encode(found);
    for (let at = 0; at < whole.length; at += CHUNK_BYTES) send(whole.subarray(at, at + CHUNK_BYTES));
    send(null);
    // Nothing that the module left behind for this moment is to run.
    process.reallyExit(0);
  });
  process.chdir(order.root);
  loader.prepare(order.root);
  const end = () => process.exit(0);
  loader.load(order.root, order.handler).then(end, end);
}

function decode(file) {
  const whole = fs.readFileSync(file);
  if (whole.latin1Slice(0, MAGIC.length) !== MAGIC || whole.readUInt32LE(MAGIC.length) > whole.length) return null;
  const start = HEAD_BYTES + whole.readUInt32LE(MAGIC.length + 4);
  const head = JSON.parse(whole.utf8Slice(HEAD_BYTES, start));
  if (head.node !== process.version || JSON.stringify(head.packs) !== JSON.stringify(packs())) return null;
  const data = whole.subarray(start);
  const files = new Map(head.files.map(([name, ...entry]) => [name, entry]));
  return { files, data, links: new Map(Object.entries(head.links)) };
}

function answer({ files, data, links }) {
  const text = ([kind, at, length]) => (kind === CODE_ASCII ? data.latin1Slice(at, at + length) : data.utf8Slice(at, at + length));
  Module._resolveFilename = function resolve(request, parent, isMain, options) {
    if (options === undefined && parent && parent.filename) {
      const known = links.get(path.dirname(parent.filename));
      if (known !== undefined && Object.hasOwn(known, request)) return known[request];
    }
    return native.resolve.call(this, request, parent, isMain, options);
  };
  Module._extensions['.js'] = (module, filename) => {
    const entry = files.get(filename);
    // Who has put a compiler of its own in the way wants to see the source.
    if (entry === undefined || entry[0] === JSON_TEXT || module._compile !== native.compile) return native.js(module, filename);
    const script = compiled(filename, text(entry), data.subarray(entry[3], entry[3] + entry[4]));
    run(module, filename, script);
  };
  Module._extensions['.json'] = (module, filename) => {
    const entry = files.get(filename);
    if (entry === undefined || entry[0] !== JSON_TEXT) return native.json(module, filename);
    module.exports = JSON.parse(text(entry).replace(/^\uFEFF/, ''));
  };
}

/** Has modules taken from the first of `places` (`[file, folder]`) that is there and whole. */
function use(places) {
  for (const [file] of places) {
    try {
      const cache = decode(file);
      if (cache !== null) return answer(cache);
    } catch (_) {
      // It costs time, and nothing else.
    }
  }
}

module.exports = { make, use };
