"""What many functions in Python load before they do anything: the AWS SDK and an HTTP client."""

import boto3
import requests

TABLE = boto3.client("dynamodb", region_name="us-east-1")
SESSION = requests.Session()


def handler(event, context):
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": '{"message":"hello"}'}
