"""The same without what a function does with them when it starts."""

import boto3
import requests


def handler(event, context):
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": '{"message":"hello"}'}
