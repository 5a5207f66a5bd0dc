// Peer: the handler of functions/node behind a bare `node:http` server. Arguments: the handler's file, the port.
const { createServer } = require("node:http");
const { handler } = require(process.argv[2]);

createServer(async (request, response) => {
  const { statusCode, headers, body } = await handler({ path: request.url });
  response.writeHead(statusCode, { ...headers, "content-length": Buffer.byteLength(body) });
  response.end(body);
}).listen(Number(process.argv[3]), "127.0.0.1");
