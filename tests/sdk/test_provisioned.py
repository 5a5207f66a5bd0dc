"""Provisioned concurrency through boto3: environments that are there before the first call, and stay."""

import concurrent.futures
import json
import signal
import time

import pytest

from conftest import refused, wait_for, zipped

WHO = """
import os, time
BORN = time.time()
def handler(event, context):
    time.sleep(event.get("sleep", 0))
    return {"how": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"], "version": os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
            "stream": os.environ["AWS_LAMBDA_LOG_STREAM_NAME"], "born": BORN, "answer": ANSWER}
"""


def who(answer=1):
    return WHO.replace("ANSWER", str(answer))


def call(client, name, **event):
    got = client.invoke(FunctionName=name, Payload=json.dumps(event), LogType="Tail")
    answer = json.load(got["Payload"])
    assert "FunctionError" not in got, answer
    return answer


def status(client, name, qualifier):
    return client.get_provisioned_concurrency_config(FunctionName=name, Qualifier=qualifier)


def ready(client, name, qualifier):
    """Waits until the configuration is ready, and returns it."""
    def there():
        shown = status(client, name, qualifier)
        assert shown["Status"] != "FAILED", shown
        return shown if shown["Status"] == "READY" else None
    return wait_for(there, "provisioned environments")


def put(client, name, qualifier, number):
    return client.put_provisioned_concurrency_config(
        FunctionName=name, Qualifier=qualifier, ProvisionedConcurrentExecutions=number)


def test_environments_are_there_before_the_first_call(server):
    client = server.client("lambda")
    name = server.function(who(), Publish=True)
    made = put(client, name, "1", 2)
    assert made["ResponseMetadata"]["HTTPStatusCode"] == 202
    assert (made["Status"], made["RequestedProvisionedConcurrentExecutions"]) == ("IN_PROGRESS", 2)
    shown = ready(client, name, "1")
    assert (shown["AllocatedProvisionedConcurrentExecutions"], shown["AvailableProvisionedConcurrentExecutions"]) == (2, 2)
    before = time.time()
    first = call(client, f"{name}:1")
    assert (first["how"], first["version"], first["born"] < before) == ("provisioned-concurrency", "1", True)
    # The latest version is another matter, and so are calls beyond what is provisioned.
    assert call(client, name)["how"] == "on-demand"
    with concurrent.futures.ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: call(client, f"{name}:1", sleep=5), range(3)))
    assert sorted(answer["how"] for answer in answers) == ["on-demand"] + ["provisioned-concurrency"] * 2
    assert call(client, f"{name}:1")["how"] == "provisioned-concurrency"
    listed = client.list_provisioned_concurrency_configs(FunctionName=name)["ProvisionedConcurrencyConfigs"]
    assert [(item["FunctionArn"].rsplit(":", 1)[1], item["Status"]) for item in listed] == [("1", "READY")]
    client.delete_provisioned_concurrency_config(FunctionName=name, Qualifier="1")
    assert refused(client.get_provisioned_concurrency_config, FunctionName=name, Qualifier="1") == (
        404, "ProvisionedConcurrencyConfigNotFoundException", "No Provisioned Concurrency Config found for this function")


def test_an_alias_that_moves_takes_them_along(server):
    client = server.client("lambda")
    name = server.function(who(1), Publish=True)
    client.update_function_code(FunctionName=name, ZipFile=zipped({"handler.py": who(2)}), Publish=True)
    client.create_alias(FunctionName=name, Name="live", FunctionVersion="1")
    put(client, name, "live", 1)
    ready(client, name, "live")
    assert (call(client, f"{name}:live")["how"], call(client, f"{name}:live")["answer"]) == ("provisioned-concurrency", 1)
    client.update_alias(FunctionName=name, Name="live", FunctionVersion="2")
    ready(client, name, "live")
    moved = call(client, f"{name}:live")
    assert (moved["how"], moved["answer"]) == ("provisioned-concurrency", 2)
    status_, code, message = refused(put, client=client, name=name, qualifier="2", number=1)
    assert (status_, code) == (409, "ResourceConflictException")
    assert message == "Version can't be used for Provisioned Concurrency configuration on an already Provisioned Alias"


def test_an_environment_that_dies_is_replaced(server):
    client = server.client("lambda")
    name = server.function("import os, time\nBORN = time.time()\ndef handler(event, context):\n"
                           "    if event.get('die'):\n        os._exit(3)\n"
                           "    return {'how': os.environ['AWS_LAMBDA_INITIALIZATION_TYPE'], 'born': BORN}\n", Publish=True)
    put(client, name, "1", 1)
    ready(client, name, "1")
    first = call(client, f"{name}:1")
    died = client.invoke(FunctionName=f"{name}:1", Payload=b'{"die": true}')
    assert died["FunctionError"] == "Unhandled"
    ready(client, name, "1")

    def replaced():
        answer = call(client, f"{name}:1")
        return answer if answer["how"] == "provisioned-concurrency" else None

    assert wait_for(replaced, "a call in the environment that was made again")["born"] > first["born"]


def test_an_init_that_fails_is_shown(server):
    client = server.client("lambda")
    name = server.function("raise RuntimeError('no')\n", Publish=True)
    put(client, name, "1", 1)
    shown = wait_for(lambda: (got := status(client, name, "1"))["Status"] == "FAILED" and got, "the failure")
    assert shown["StatusReason"] == "FUNCTION_ERROR_INIT_FAILURE"
    assert shown["AllocatedProvisionedConcurrentExecutions"] == 0


def test_they_are_made_again_after_a_restart(own_server):
    server = own_server("dev")
    client = server.client("lambda")
    name = server.function(who(), Publish=True)
    put(client, name, "1", 1)
    ready(client, name, "1")
    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    server.start()
    client = server.client("lambda")
    ready(client, name, "1")
    before = time.time()
    answer = call(client, f"{name}:1")
    assert (answer["how"], answer["born"] < before) == ("provisioned-concurrency", True)


def test_a_minimum_by_tag(server):
    client = server.client("lambda")
    name = server.function(who(1), Tags={"dunlin:minimum-environments": "1"})
    assert refused(client.tag_resource, Resource=client.get_function_configuration(FunctionName=name)["FunctionArn"],
                   Tags={"dunlin:minimum-environments": "lots"})[:2] == (400, "InvalidParameterValueException")

    def kept(answer):
        got = call(client, name)
        return got if (got["how"], got["answer"]) == ("provisioned-concurrency", answer) else None

    wait_for(lambda: kept(1), "a call in an environment that was there")
    client.update_function_code(FunctionName=name, ZipFile=zipped({"handler.py": who(2)}))
    wait_for(lambda: kept(2), "a call in one of the new code")


@pytest.mark.modes("dev")
@pytest.mark.parametrize(
    ("qualifier", "number", "status_", "code", "words"),
    [
        ("$LATEST", 1, 400, "InvalidParameterValueException", "cannot be applied to unpublished function versions."),
        ("9", 1, 404, "ResourceNotFoundException", "Function not found: "),
        ("none", 1, 404, "ResourceNotFoundException", "Cannot find alias arn: "),
        ("1", 0, 400, "ValidationException", "Member must have value greater than or equal to 1"),
        ("1", 901, 400, "InvalidParameterValueException", "below its minimum value of [100]."),
        ("1", 1001, 400, "InvalidParameterValueException", "account's unreserved concurrency [1000]."),
    ],
)
def test_refused(server, qualifier, number, status_, code, words):
    client = server.client("lambda")
    name = server.function(who(), Publish=True)
    got = refused(put, client=client, name=name, qualifier=qualifier, number=number)
    assert got[:2] == (status_, code), got
    assert words in got[2], got


def test_reserved_concurrency_holds_it(server):
    client = server.client("lambda")
    name = server.function(who(), Publish=True)
    client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=2)
    assert refused(put, client=client, name=name, qualifier="1", number=3)[2] == (
        "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function")
    put(client, name, "1", 2)
    assert refused(client.put_function_concurrency, FunctionName=name, ReservedConcurrentExecutions=1)[:2] == (
        400, "InvalidParameterValueException")
