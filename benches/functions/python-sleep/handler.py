"""Waits 300 ms, or as long as the query says: a call that holds its environment and uses no processor."""
import time


def handler(event, context):
    time.sleep(float((event.get("queryStringParameters") or {}).get("ms", 300)) / 1000)
    return {"statusCode": 200, "body": "rested"}
