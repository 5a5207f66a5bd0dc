"""A function in a VPC: how it is shown, and that it has no way to the internet."""

import json

import requests

from conftest import refused, wait_for

CODE = """
import os, socket, urllib.request
def handler(event, context):
    if "host" in event:
        connection = socket.socket()
        connection.settimeout(5)
        try:
            connection.connect((event["host"], 80))
            # The platform takes every connection; one that leads nowhere ends at once.
            return "open" if connection.recv(1) else "closed"
        except OSError as error:
            return type(error).__name__
    return urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"] + "/_dunlin/health", timeout=5).status
"""
VPC = {"SubnetIds": ["subnet-0abc", "subnet-0def"], "SecurityGroupIds": ["sg-0123"]}


def call(server, name, event):
    return json.loads(server.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))["Payload"].read())


def refusals(server, name):
    """Why connections of a function were refused."""
    found = requests.get(f"{server.url}/_dunlin/network?function={name}", headers={"Authorization": "test"}, timeout=10).json()
    return [connection["refused"] for connection in found["connections"] if connection["refused"]]


def test_a_function_in_a_vpc_reaches_the_platform_and_nothing_public(dev):
    client = dev.client("lambda")
    name = dev.function(CODE, VpcConfig=VPC)
    shown = client.get_function_configuration(FunctionName=name)["VpcConfig"]
    assert (shown["SubnetIds"], shown["SecurityGroupIds"]) == (VPC["SubnetIds"], VPC["SecurityGroupIds"])
    assert shown["VpcId"].startswith("vpc-")
    assert call(dev, name, {}) == 200
    assert call(dev, name, {"host": "192.0.2.7"}) != "open"
    wait_for(lambda: refusals(dev, name) == ["the function's egress policy does not name it"], "the refusal by its network")
    client.update_function_configuration(FunctionName=name, VpcConfig={"SubnetIds": [], "SecurityGroupIds": []})
    assert client.get_function(FunctionName=name)["Configuration"]["VpcConfig"]["VpcId"] == ""
    assert call(dev, name, {"host": "192.0.2.7"}) != "open"
    wait_for(lambda: "the address is not public" in refusals(dev, name), "the refusal of the address itself")
    status, code, _ = refused(client.update_function_configuration, FunctionName=name, VpcConfig={"SubnetIds": ["subnet-1"]})
    assert (status, code) == (400, "InvalidParameterValueException")
    status, code, _ = refused(client.update_function_configuration, FunctionName=name, VpcConfig={"SubnetIds": ["net-1"]})
    assert (status, code) == (400, "ValidationException")
