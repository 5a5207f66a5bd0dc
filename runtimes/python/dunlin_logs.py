"""Lambda's set-up of the `logging` module: the handler of the root logger, its text and JSON formats.

Loaded after the function's code first imports `logging`, or by a zygote before it forks. It knows nothing of frames; `logs`
is the guest's `Logs`.
"""

import json
import logging
import time


class LambdaLoggerHandler(logging.Handler):
    """Writes each record as one event of the log, in order with what `print` writes, and marked with the invocation that it belongs to."""

    def __init__(self, logs):
        super().__init__()
        self.logs = logs
        self.addFilter(RequestFilter(logs))

    def emit(self, record):
        try:
            self.logs.write(self.format(record))
        except Exception:  # pylint: disable=broad-except
            self.handleError(record)


class RequestFilter(logging.Filter):
    """Marks records."""

    def __init__(self, logs):
        super().__init__()
        self.logs = logs

    def filter(self, record):
        record.aws_request_id = self.logs.request_id or ""
        record.tenant_id = self.logs.tenant_id
        return True


class JsonFormatter(logging.Formatter):
    """Turns a record into Lambda's JSON: one object for each."""

    own = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "aws_request_id", "tenant_id"}

    def format(self, record):
        error = record.exc_info if record.exc_info and record.exc_info[0] else None
        plain = isinstance(record.msg, dict) and not record.args
        result = {
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%SZ"),
            "level": logging.getLevelName(min(50, max(0, record.levelno)) // 10 * 10),
            "message": record.msg if plain else record.getMessage(),
            "logger": record.name,
        }
        if error:
            import traceback

            result["stackTrace"] = traceback.format_tb(error[2])
            result["errorType"] = error[0].__name__
            result["errorMessage"] = str(error[1])
        result["requestId"] = record.aws_request_id
        if error:
            result["location"] = "%s:%s:%s" % (record.pathname, record.funcName, record.lineno)
        if record.tenant_id is not None:
            result["tenantId"] = record.tenant_id
        for key, value in vars(record).items():
            if key not in self.own and key not in result and value is not None:
                result[key] = value
        return json.dumps(result, ensure_ascii=False, default=str) + "\n"


def text_formatter():
    """`[LEVEL]`, time, request id and message, separated by tabs."""
    line = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
    return logging.Formatter(line, "%Y-%m-%dT%H:%M:%S")


def set_up(logs):
    """Gives the root logger Lambda's handler, which writes through `logs`."""
    logging.Formatter.converter = time.gmtime
    logs.handler = LambdaLoggerHandler(logs)
    adjust(logs)
    logging.getLogger().addHandler(logs.handler)


def adjust(logs):
    """Has the handler go by what the variables say."""
    logs.handler.setFormatter(JsonFormatter() if logs.json else text_formatter())
    if logs.level and isinstance(logging.getLevelName(logs.level), int):
        logging.getLogger().setLevel(logs.level)
