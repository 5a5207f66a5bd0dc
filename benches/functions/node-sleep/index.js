// Waits 300 ms, or as long as the query says: a call that holds its environment and uses no processor.
exports.handler = async (event) => {
  const { ms = 300 } = event.queryStringParameters || {};
  await new Promise((done) => setTimeout(done, Number(ms)));
  return { statusCode: 200, body: "rested" };
};
