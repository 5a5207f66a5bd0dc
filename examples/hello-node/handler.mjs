export const handler = async (event) => {
  const name = event?.queryStringParameters?.name ?? event?.name ?? "world";
  console.log("greeting", name);
  return { message: `Hello, ${name}!` };
};
