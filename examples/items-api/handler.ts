import { APIGatewayEvent, Context, Callback } from "aws-lambda";
import { DynamoDB } from "aws-sdk";

const dynamoDb = new DynamoDB.DocumentClient();

interface Item {
  id: string;
  data: unknown;
}

export const handler = async (event: APIGatewayEvent, _context: Context, callback: Callback) => {
  try {
    const { id, data } = JSON.parse(event.body || "{}") as Item;
    const params = {
      TableName: "ExampleTable",
      Item: { id, data },
    };
    await dynamoDb.put(params).promise();
    callback(null, {
      statusCode: 200,
      body: JSON.stringify({ message: "Item stored", id }),
    });
  } catch (error) {
    console.error(error);
    callback(null, {
      statusCode: 500,
      body: JSON.stringify({ message: "The item could not be stored" }),
    });
  }
};
