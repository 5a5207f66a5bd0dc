"""Resource policies in their effect, through boto3 and plain HTTP."""

import json

import requests

from conftest import refused
from test_apis import http_api, open_to_apis, rest_api

HANDLER = "def handler(event, context):\n    return {'statusCode': 200, 'body': 'here'}\n"
OTHER = "111122223333"


def test_a_url_answers_everybody_only_while_a_permission_says_so(server):
    client = server.client("lambda")
    name = server.function(HANDLER)
    made = client.create_function_url_config(FunctionName=name, AuthType="NONE")
    url = f"{server.url}/_dunlin/url/{made['FunctionUrl'].split('://')[1].split('.')[0]}/"
    answer = requests.get(url, timeout=30)
    assert (answer.status_code, answer.json()) == (403, {"Message": "Forbidden"})
    assert answer.headers["x-amzn-errortype"] == "AccessDeniedException"
    server.open_url(name)
    assert requests.get(url, timeout=30).text == "here"
    client.remove_permission(FunctionName=name, StatementId="public")
    assert requests.get(url, timeout=30).status_code == 403


def test_another_account_invokes_what_it_is_permitted_to(dev):
    client = dev.client("lambda")
    name = dev.function(HANDLER)
    arn = client.get_function_configuration(FunctionName=name)["FunctionArn"]
    other = dev.client("lambda", OTHER, "any")
    status, code, message = refused(other.invoke, FunctionName=arn)
    assert (status, code) == (403, "AccessDeniedException") and "no resource-based policy" in message
    client.add_permission(FunctionName=name, StatementId="other", Action="lambda:InvokeFunction", Principal=OTHER)
    assert json.load(other.invoke(FunctionName=arn)["Payload"])["body"] == "here"
    assert other.invoke(FunctionName=arn, InvocationType="Event")["StatusCode"] == 202
    assert refused(other.get_function, FunctionName=arn)[0] == 403
    assert refused(dev.client("lambda", "444455556666", "any").invoke, FunctionName=arn)[0] == 403


def test_a_permission_for_calls_through_a_url_only(dev):
    client, other = dev.client("lambda"), dev.client("lambda", OTHER, "any")
    name = dev.function(HANDLER)
    arn = client.get_function_configuration(FunctionName=name)["FunctionArn"]
    added = client.add_permission(
        FunctionName=name, StatementId="url", Action="lambda:InvokeFunction", Principal=OTHER, InvokedViaFunctionUrl=True)
    assert json.loads(added["Statement"])["Condition"] == {"Bool": {"lambda:InvokedViaFunctionUrl": "true"}}
    assert refused(other.invoke, FunctionName=arn)[0] == 403
    url = client.create_function_url_config(FunctionName=name, AuthType="NONE")["FunctionUrl"]
    url = f"{dev.url}/_dunlin/url/{url.split('://')[1].split('.')[0]}/"
    assert requests.get(url, timeout=30).status_code == 403
    client.add_permission(
        FunctionName=name, StatementId="all", Action="lambda:InvokeFunctionUrl", Principal="*", InvokedViaFunctionUrl=True)
    assert requests.get(url, timeout=30).text == "here"


def test_services_of_both_domains_are_principals(server):
    client = server.client("lambda")
    name = server.function(HANDLER)
    for number, service in enumerate(["alexa-appkit.amazon.com", "s3.amazonaws.com"]):
        added = client.add_permission(
            FunctionName=name, StatementId=f"s{number}", Action="lambda:InvokeFunction", Principal=service)
        assert json.loads(added["Statement"])["Principal"] == {"Service": service}
    status, code, message = refused(
        client.add_permission, FunctionName=name, StatementId="x", Action="lambda:InvokeFunction", Principal="amazon.com")
    assert (status, code) == (400, "InvalidParameterValueException") and "principal was invalid" in message


def test_an_api_calls_a_function_that_lets_it(server):
    client = server.client("lambda")
    name = server.function(HANDLER)
    _, _, rest = rest_api(server, name, "/pets/{id}")
    _, http = http_api(server, name, "GET /pets", "$default")
    assert requests.get(f"{rest}/pets/1", timeout=30).text == "here"
    for statement in json.loads(client.get_policy(FunctionName=name)["Policy"])["Statement"]:
        client.remove_permission(FunctionName=name, StatementId=statement["Sid"])
    for url, words in [(f"{rest}/pets/1", "Internal server error"), (f"{http}/pets", "Internal Server Error")]:
        answer = requests.get(url, timeout=30)
        assert (answer.status_code, answer.json()) == (500, {"message": words})
    # As the console and templates name routes.
    api = rest.split("/")[-2]
    source = f"arn:aws:execute-api:us-east-1:000000000000:{api}/*/GET/pets/*"
    open_to_apis(server, name, SourceArn=source)
    assert requests.get(f"{rest}/pets/1", timeout=30).text == "here"
    assert requests.post(f"{rest}/pets/1", timeout=30).status_code == 500
    assert requests.get(f"{http}/pets", timeout=30).status_code == 500
    api = http.split("/")[-2]
    open_to_apis(server, name, SourceArn=f"arn:aws:execute-api:us-east-1:000000000000:{api}/*/*/pets")
    assert requests.get(f"{http}/pets", timeout=30).text == "here"
    assert requests.get(f"{http}/else", timeout=30).status_code == 500
    open_to_apis(server, name, SourceArn=f"arn:aws:execute-api:us-east-1:000000000000:{api}/*/$default")
    assert requests.get(f"{http}/else", timeout=30).text == "here"


def test_a_policy_is_put_whole(server):
    client = server.client("lambda")
    name = server.function(HANDLER)
    arn = client.get_function_configuration(FunctionName=name)["FunctionArn"]
    deny = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Principal": "*", "Action": "lambda:InvokeFunction", "Resource": arn}]}
    put = client.put_resource_policy(ResourceArn=arn, Policy=json.dumps(deny))
    assert json.loads(put["Policy"])["Statement"] == deny["Statement"]
    status, code, message = refused(client.invoke, FunctionName=name)
    assert (status, code) == (403, "AccessDeniedException") and "explicit deny" in message
    got = client.get_resource_policy(ResourceArn=arn)
    assert got["RevisionId"] == put["RevisionId"]
    client.delete_resource_policy(ResourceArn=arn, RevisionId=got["RevisionId"])
    assert json.load(client.invoke(FunctionName=name)["Payload"])["body"] == "here"
    assert refused(client.get_resource_policy, ResourceArn=arn)[0] == 404
