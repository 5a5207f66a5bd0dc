// Peer: the handler of functions/node for each message on a socket that is the standard input, and nothing else. Argument: the handler's
// file. For `front`, which is behind HTTP what a platform would be at the least.
const { readSync, writeSync } = require("node:fs");
const { handler } = require(process.argv[2]);

const buffer = Buffer.allocUnsafeSlow(65536);

(async () => {
  for (;;) {
    const length = readSync(0, buffer, 0, buffer.length, null);
    if (length === 0) return;
    const { body } = await handler(JSON.parse(buffer.utf8Slice(0, length)));
    writeSync(0, body);
  }
})();
