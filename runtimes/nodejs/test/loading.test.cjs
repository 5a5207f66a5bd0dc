//! From handler strings to functions, the errors of that, and what the console writes.

'use strict';

const assert = require('node:assert');
const path = require('node:path');
const { test } = require('node:test');
const { Guest, folder, run } = require('./guest.cjs');

const CJS = 'exports.handler = async () => "cjs"; exports.a = { b: { c: async () => "nested" } };';
const ESM = 'const late = await Promise.resolve("esm"); export const handler = async () => late;';

/** name, files, handler string, expected answer */
const FOUND = [
  ['js', { 'index.js': CJS }, 'index.handler', '"cjs"'],
  ['nested export', { 'index.js': CJS }, 'index.a.b.c', '"nested"'],
  ['folder', { 'src/deep/index.js': CJS }, 'src/deep/index.handler', '"cjs"'],
  ['folder with dots', { 'src/v1.2/my.app/index.js': CJS }, 'src/v1.2/my.app/index.a.b.c', '"nested"'],
  ['mjs with top-level await', { 'index.mjs': ESM }, 'index.handler', '"esm"'],
  ['cjs', { 'index.cjs': CJS }, 'index.handler', '"cjs"'],
  ['cjs beside type module', { 'index.cjs': CJS, 'package.json': '{"type":"module"}' }, 'index.handler', '"cjs"'],
  ['js of type module', { 'src/index.js': ESM, 'package.json': '{"type":"module"}' }, 'src/index.handler', '"esm"'],
  ['nearest package.json', { 'src/index.js': CJS, 'src/package.json': '{}', 'package.json': '{"type":"module"}' }, 'src/index.handler', '"cjs"'],
  ['js before mjs', { 'index.js': CJS, 'index.mjs': ESM }, 'index.handler', '"cjs"'],
  ['folder with index', { 'app/index.js': CJS }, 'app.handler', '"cjs"'],
  ['default export of a module', { 'index.mjs': 'export default { handler: async () => "default" };' }, 'index.handler', '"default"'],
  ['package', { 'node_modules/pkg/index.js': CJS }, 'pkg.handler', '"cjs"'],
  ['relative require', { 'src/index.js': 'exports.handler = async () => require("./other");', 'src/other.js': 'module.exports = 5;' }, 'src/index.handler', '5'],
  ['class with static method', { 'index.js': 'class App { static async handler() { return "static"; } } exports.App = App;' }, 'index.App.handler', '"static"'],
];

test('handlers are found', { concurrency: 4 }, async (t) => {
  await Promise.all(FOUND.map(([name, files, handler, expected]) =>
    t.test(name, async (t) => {
      const { loaded, answers } = await run(t, { files, handler });
      assert.strictEqual(loaded.kind, 'READY', JSON.stringify(loaded));
      assert.strictEqual(answers[0].text, expected);
    })));
});

/** name, files, handler string, expected type, expected message */
const REFUSED = [
  ['no dot', {}, 'index', 'Runtime.MalformedHandlerName', 'Bad handler'],
  ['parent folder', {}, '../index.handler', 'Runtime.MalformedHandlerName', /^'\.\.\/index\.handler' is not a valid handler name\./],
  ['no file', {}, 'index.handler', 'Runtime.ImportModuleError', /^Error: Cannot find module 'index'\nRequire stack:/],
  ['missing dependency', { 'index.js': 'require("nope");' }, 'index.handler', 'Runtime.ImportModuleError', /^Error: Cannot find module 'nope'/],
  ['missing dependency of a module', { 'index.mjs': 'import "nope";' }, 'index.handler', 'Runtime.ImportModuleError', /Cannot find package 'nope'/],
  ['syntax', { 'index.js': 'exports.handler = (' }, 'index.handler', 'Runtime.UserCodeSyntaxError', /^SyntaxError: /],
  ['missing export', { 'index.js': CJS }, 'index.nope', 'Runtime.HandlerNotFound', 'index.nope is undefined or not exported'],
  ['missing nested export', { 'index.js': CJS }, 'index.x.y', 'Runtime.HandlerNotFound', 'index.x.y is undefined or not exported'],
  ['no function', { 'index.js': CJS }, 'index.a.b', 'Runtime.HandlerNotFound', 'index.a.b is not a function'],
  ['init throws', { 'index.js': 'throw new TypeError("at init");' }, 'index.handler', 'TypeError', 'at init'],
  ['module throws', { 'index.mjs': 'throw new RangeError("at import");' }, 'index.handler', 'RangeError', 'at import'],
  ['other stream kind', { 'index.js': 'exports.handler = () => {}; exports.handler[Symbol.for("aws.lambda.runtime.handler.streaming")] = "request";' }, 'index.handler', 'Runtime.MalformedStreamingHandler', 'Only response streaming is supported.'],
];

test('handlers are refused', { concurrency: 4 }, async (t) => {
  await Promise.all(REFUSED.map(([name, files, handler, type, message]) =>
    t.test(name, async (t) => {
      const { loaded, log, exit } = await run(t, { files, handler });
      assert.strictEqual(loaded.kind, 'INIT_ERROR');
      assert.strictEqual(loaded.document.errorType, type);
      if (message instanceof RegExp) assert.match(loaded.document.errorMessage, message);
      else assert.strictEqual(loaded.document.errorMessage, message);
      assert.match(log, /\tundefined\tERROR\tInit Error \t\{/);
      assert.strictEqual(exit, 1);
    })));
});

test('an exception while a module is awaited is an init error', async (t) => {
  const { loaded, exit } = await run(t, {
    files: { 'index.mjs': 'setTimeout(() => { throw new Error("timer"); }, 1); await new Promise(() => {});' },
  });
  assert.deepStrictEqual([loaded.kind, loaded.document.errorMessage, exit], ['INIT_ERROR', 'timer', 129]);
});

test('the environment of LOAD, its folder and layers take effect', async (t) => {
  const files = {
    'index.js': 'exports.handler = async () => [process.cwd(), process.env.COLOUR, require("layer-package")];',
    'layer/node_modules/layer-package/index.js': 'module.exports = "from a layer";',
  };
  const { root, answers } = await run(t, {
    files,
    environment: { COLOUR: 'grey', NODE_PATH: 'layer/node_modules' },
  });
  assert.deepStrictEqual(JSON.parse(answers[0].text), [root, 'grey', 'from a layer']);
  assert.ok(path.isAbsolute(root));
});

test('the console writes text events', async (t) => {
  const source = `console.log('at init');
    exports.handler = async () => {
      console.log('a %s', 'b', { c: 1 }); console.debug('two\\nlines'); console.warn('w'); console.error(new Error('e').message);
      process.stdout.write('raw out\\n'); process.stderr.write('raw err\\n');
    };`;
  const { log } = await run(t, { files: { 'index.js': source } });
  const lines = log.trimEnd().split('\n').map((line) => line.replace(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/, 'T'));
  assert.deepStrictEqual(lines.filter((line) => line !== 'raw err'), [
    'T\tundefined\tINFO\tat init',
    'T\trequest-1\tINFO\ta b { c: 1 }',
    'T\trequest-1\tDEBUG\ttwo\rlines',
    'T\trequest-1\tWARN\tw',
    'T\trequest-1\tERROR\te',
    'raw out',
  ]);
  assert.ok(lines.includes('raw err'));
});

test('an event does not join a line that was begun', async (t) => {
  const source = `exports.handler = async () => {
      process.stdout.write('part'); console.log('a\\r\\nb'); process.stdout.write('more'); console.error('c');
    };`;
  for (const form of ['TEXT', 'JSON']) {
    const { log } = await run(t, { files: { 'index.js': source }, environment: { AWS_LAMBDA_LOG_FORMAT: form } });
    const lines = log.split('\n');
    assert.deepStrictEqual([lines[0], lines[2], lines[4], lines.length], ['part', 'more', '', 5]);
    const messages = [lines[1], lines[3]].map((line) => (form === 'JSON' ? JSON.parse(line).message : line.split('\t')[3]));
    assert.deepStrictEqual(messages, [form === 'JSON' ? 'a\r\nb' : 'a\rb', 'c']);
  }
});

test('the console writes JSON events above its level', async (t) => {
  const source = `exports.handler = async () => {
      console.debug('low'); console.log({ a: 1 }); console.log('x', 1); console.error('failed', new TypeError('t'));
      const circle = {}; circle.circle = circle; console.info(circle);
    };`;
  const { log } = await run(t, {
    files: { 'index.js': source },
    environment: { AWS_LAMBDA_LOG_FORMAT: 'JSON', AWS_LAMBDA_LOG_LEVEL: 'INFO' },
  });
  const events = log.trimEnd().split('\n').map((line) => JSON.parse(line));
  assert.strictEqual(events.length, 4);
  for (const event of events) assert.strictEqual(event.requestId, 'request-1');
  assert.deepStrictEqual(events.map((event) => event.level), ['INFO', 'INFO', 'ERROR', 'INFO']);
  assert.deepStrictEqual(events[0].message, { a: 1 });
  assert.strictEqual(events[1].message, 'x 1');
  assert.deepStrictEqual([events[2].errorType, events[2].errorMessage], ['TypeError', 't']);
  assert.match(events[3].message, /Circular/);
});

test('what clients of services load is there ahead, and is not where nobody had the time', async (t) => {
  const handler = `const loaded = process.moduleLoadList.includes('NativeModule https');
    exports.handler = async () => loaded;`;
  const root = folder(t, { 'index.js': handler });
  for (const ahead of [true, false]) {
    const guest = new Guest(ahead ? { _DUNLIN_AHEAD: '1' } : {});
    const loaded = await guest.load(root, 'index.handler');
    assert.strictEqual(loaded.kind, 'READY', JSON.stringify(loaded));
    assert.strictEqual(JSON.parse((await guest.invoke({})).text), ahead);
    assert.strictEqual(await guest.close(), 0);
  }
});

test('nothing else is left of a rehearsal', async (t) => {
  const handler = `exports.handler = async (event, context) => ({
    name: context.functionName, memory: context.memoryLimitInMB, ahead: process.env._DUNLIN_AHEAD, cwd: process.cwd(),
    cached: Object.keys(require.cache).filter((file) => file.includes('rehearsal')), event });`;
  const root = folder(t, { 'index.js': handler });
  const guest = new Guest({ _DUNLIN_AHEAD: '1' });
  const environment = { AWS_LAMBDA_FUNCTION_NAME: 'f', AWS_LAMBDA_FUNCTION_MEMORY_SIZE: '128' };
  const loaded = await guest.load(root, 'index.handler', { AWS_EXECUTION_ENV: 'AWS_Lambda_nodejs20.x', ...environment });
  assert.strictEqual(loaded.kind, 'READY', JSON.stringify(loaded));
  const answer = await guest.invoke({ a: 1 });
  assert.deepStrictEqual(JSON.parse(answer.text), { name: 'f', memory: '128', cwd: root, cached: [], event: { a: 1 } });
  assert.strictEqual(await guest.close(), 0);
  assert.strictEqual(guest.log, '');
});
