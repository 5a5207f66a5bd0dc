//! Compiled code that the platform keeps beside a package.

'use strict';

const assert = require('node:assert');
const fs = require('node:fs');
const path = require('node:path');
const test = require('node:test');

const { Guest, folder, frame } = require('./guest.cjs');

const FILES = {
  'app.js': `
    const part = require('./part');
    const data = require('./data.json');
    const importing = require('./importing');
    exports.handler = async (event) => {
      const loaded = await importing();
      const late = require('./late');
      return { part: part.value, data, late, module: loaded.default, at: part.where(), main: require.main === undefined || require.main !== module,
        paths: module.paths.length > 0, parent: part.parent === module.filename, cached: Object.keys(require.cache).filter((file) => file.startsWith(__dirname)).length, resolved: require.resolve('./part') === part.file };
    };`,
  'part/index.js': `
    exports.value = 'one'; exports.file = __filename; exports.parent = module.parent.filename;
    exports.where = () => new Error('x').stack.split('\\n')[1].trim().replace(/.*\\//, '');`,
  'importing.js': `module.exports = () => import('./module.mjs');`,
  'late.js': `module.exports = 'é\u4e2d';`,
  'data.json': `\uFEFF{"a": "é"}`,
  'module.mjs': `export default 'esm';`,
};

async function make(context, root, handler = 'app.handler') {
  const guest = new Guest();
  guest.channel.write(frame(4, Buffer.from(JSON.stringify({ root, handler, roots: [`${root}/`] }))));
  const pieces = [];
  for (let next = await guest.next(); next !== null && next.kind !== 'END'; next = await guest.next()) {
    if (next.kind === 'CHUNK') pieces.push(next.payload);
  }
  assert.strictEqual(await guest.exit, 0, guest.log);
  const file = path.join(folder(context, {}), 'cache');
  fs.writeFileSync(file, Buffer.concat(pieces));
  return file;
}

async function answer(root, file, environment) {
  const guest = new Guest(environment);
  const loaded = await guest.load(root, 'app.handler', {}, file ? [[file, root]] : undefined);
  assert.strictEqual(loaded.kind, 'READY', JSON.stringify(loaded));
  const result = await guest.invoke({});
  await guest.close();
  assert.strictEqual(result.kind, 'RESPONSE', JSON.stringify(result));
  return JSON.parse(result.text);
}

function swap(root, name, text) {
  fs.writeFileSync(path.join(root, name), text);
}

test('a program cannot tell whether its code was compiled before', async (context) => {
  const root = folder(context, FILES);
  const plain = await answer(root);
  assert.deepStrictEqual(await answer(root, await make(context, root)), plain);
  assert.deepStrictEqual([plain.part, plain.module, plain.late, plain.parent, plain.resolved], ['one', 'esm', 'é中', true, true]);
});

test('files come from the cache, and what is not in it from the package', async (context) => {
  const root = folder(context, FILES);
  const file = await make(context, root);
  swap(root, 'part/index.js', FILES['part/index.js'].replace('one', 'two'));
  swap(root, 'data.json', '2');
  swap(root, 'late.js', 'module.exports = 2');
  const { part, data, late } = await answer(root, file);
  assert.deepStrictEqual([part, data, late], ['one', { a: 'é' }, 2]);
});

test('what is no whole cache costs time only', async (context) => {
  const root = folder(context, FILES);
  const file = await make(context, root);
  const whole = fs.readFileSync(file);
  swap(root, 'part/index.js', FILES['part/index.js'].replace('one', 'two'));
  const noise = Buffer.from(whole).fill(0xff, 20, 60);
  const other = Buffer.from(whole.toString('latin1').replace(process.version, `v${'9'.repeat(process.version.length - 1)}`), 'latin1');
  for (const torn of [Buffer.alloc(0), whole.subarray(0, 10), whole.subarray(0, -1), noise, other, Buffer.from('{}')]) {
    fs.writeFileSync(file, torn);
    assert.strictEqual((await answer(root, file)).part, 'two');
  }
  assert.strictEqual((await answer(root, path.join(root, 'none'))).part, 'two');
});

test('code of other flags is compiled', async (context) => {
  const root = folder(context, FILES);
  const file = await make(context, root);
  assert.strictEqual((await answer(root, file, { NODE_OPTIONS: '--max-old-space-size=99' })).part, 'one');
});

test('a module that fails or ends the process leaves what it had loaded', async (context) => {
  for (const end of ['throw new Error("no TABLE")', 'process.exit(3)', 'setImmediate(() => { throw 1 }); exports.handler = 1', 'Promise.reject(1)']) {
    const root = folder(context, { ...FILES, 'failing.js': `require('./part'); ${end}` });
    const file = await make(context, root, 'failing.handler');
    swap(root, 'part/index.js', FILES['part/index.js'].replace('one', 'two'));
    assert.strictEqual((await answer(root, file)).part, 'one', end);
  }
});

test('who compiles by himself sees the source', async (context) => {
  const files = {
    ...FILES,
    'app.js': `
      const Module = require('module');
      const before = Module.prototype._compile;
      Module.prototype._compile = function (source, file) { return before.call(this, source.replace('one', 'seen'), file); };
      const part = require('./part');
      exports.handler = async () => ({ part: part.value });`,
  };
  const root = folder(context, files);
  assert.strictEqual((await answer(root, await make(context, root))).part, 'seen');
});
