"""Lambda's set-up of the `logging` module: the handler of the root logger, its text and JSON formats.

Loaded when the function's code first imports `logging`. It knows nothing of frames; `logs` is the guest's `Logs`.
"""

import json
import time


def set_up(logging, logs):
    """Gives the root logger Lambda's handler, which writes through `logs`."""

    class LambdaLoggerHandler(logging.Handler):
        """Writes records where `print` writes."""

        def emit(self, record):
            try:
                logs.write(self.format(record))
            except Exception:  # pylint: disable=broad-except
                self.handleError(record)

    class RequestFilter(logging.Filter):
        """Marks each record with the invocation that it belongs to."""

        def filter(self, record):
            record.aws_request_id = logs.request_id or ""
            record.tenant_id = logs.tenant_id
            return True

    logging.Formatter.converter = time.gmtime
    handler = LambdaLoggerHandler()
    handler.setFormatter(json_formatter(logging) if logs.json else text_formatter(logging))
    handler.addFilter(RequestFilter())
    root = logging.getLogger()
    if logs.level and isinstance(logging.getLevelName(logs.level), int):
        root.setLevel(logs.level)
    root.addHandler(handler)


def text_formatter(logging):
    """`[LEVEL]`, time, request id and message, separated by tabs."""
    line = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
    return logging.Formatter(line, "%Y-%m-%dT%H:%M:%S")


def json_formatter(logging):
    """One JSON object per record."""
    own = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "aws_request_id", "tenant_id"}

    class JsonFormatter(logging.Formatter):
        """Turns a record into Lambda's JSON."""

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
                if key not in own and key not in result and value is not None:
                    result[key] = value
            return json.dumps(result, ensure_ascii=False, default=str) + "\n"

    return JsonFormatter()
