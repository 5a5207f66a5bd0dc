// Peer: the answer of functions/node as a worker.
export default {
  fetch() {
    return new Response(JSON.stringify({ message: "hello" }), { headers: { "content-type": "application/json" } });
  },
};
