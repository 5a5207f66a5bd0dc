"""The function of a rehearsal: see `rehearse` in `dunlin_zygote.py`."""

import json


def handler(event, context):
    """Answers as most functions do."""
    return {"statusCode": 200, "headers": {"content-type": "application/json"}, "body": json.dumps(event)}
