"""The handler that the platform and the bare server both run."""
import json


def handler(event, context):
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": json.dumps({"message": "hello"})}
