// An ordinary web server: it knows nothing of functions, and listens where PORT says.
const http = require('node:http');

let served = 0;

http.createServer((request, response) => {
  if (request.url === '/healthz') {
    return response.end('ok');
  }
  served += 1;
  response.setHeader('content-type', 'text/plain');
  response.end(`Hello from ${request.method} ${request.url}, request ${served} of this process\n`);
}).listen(process.env.PORT, () => console.log(`listening at port ${process.env.PORT}`));

process.on('SIGTERM', () => {
  console.log(`asked to stop after ${served} requests`);
  process.exit(0);
});
