"""PartiQL statements through boto3: one, many, and as a transaction."""

import pytest

from conftest import refused
from test_dynamodb import make


@pytest.fixture
def run(server):
    """Runs a statement with @ for a table of its own, key `pk` and `n`, and returns its items."""
    client = server.resource("dynamodb").meta.client
    name = make(server, sort="n", sort_kind="N")

    def statement(text, *parameters, **more):
        if parameters:
            more["Parameters"] = list(parameters)
        return client.execute_statement(Statement=text.replace("@", f'"{name}"'), **more)["Items"]

    statement.client, statement.name = client, name
    return statement


def test_statements(run):
    for n in range(5):
        run("INSERT INTO @ VALUE {'pk': ?, 'n': ?, 'even': ?, 'tags': <<'t'>>}", "a", n, n % 2 == 0)
    assert [item["n"] for item in run("SELECT n FROM @ WHERE pk = 'a' AND n >= ? ORDER BY n DESC", 2)] == [4, 3, 2]
    assert [item["n"] for item in run("SELECT * FROM @ WHERE even = true AND n < 3")] in ([0, 2], [2, 0])
    changed = run("UPDATE @ SET seen = 1, tags = set_add(tags, <<'u'>>) WHERE pk = 'a' AND n = 1 RETURNING MODIFIED NEW *")
    assert changed == [{"seen": 1, "tags": {"t", "u"}}]
    assert run("DELETE FROM @ WHERE pk = 'a' AND n = 1 RETURNING ALL OLD *")[0]["seen"] == 1
    client = run.client
    arguments = {"Statement": f"INSERT INTO \"{run.name}\" VALUE {{'pk': 'a', 'n': 0}}"}
    assert refused(client.execute_statement, **arguments) == (
        400, "DuplicateItemException", "Duplicate primary key exists in table",
    )
    arguments = {"Statement": f"UPDATE \"{run.name}\" SET x = 1 WHERE pk = 'none' AND n = 0"}
    assert refused(client.execute_statement, **arguments) == (
        400, "ConditionalCheckFailedException", "The conditional request failed",
    )
    assert refused(client.execute_statement, Statement="SELECT * FROM") == (
        400, "ValidationException", "Statement wasn't well formed, can't be processed: Unexpected term",
    )


@pytest.mark.modes("dev")
def test_pages_of_a_statement(run):
    for n in range(7):
        run("INSERT INTO @ VALUE {'pk': 'a', 'n': ?}", n)
    arguments = {"Statement": f"SELECT n FROM \"{run.name}\" WHERE pk = ?", "Parameters": ["a"], "Limit": 3}
    found, pages = [], 0
    while True:
        page = run.client.execute_statement(**arguments)
        found, pages = found + [item["n"] for item in page["Items"]], pages + 1
        if "NextToken" not in page:
            break
        arguments["NextToken"] = page["NextToken"]
    assert (found, pages) == (list(range(7)), 3)


@pytest.mark.modes("dev")
def test_batches_and_transactions_of_statements(run):
    client, name = run.client, f'"{run.name}"'
    writes = [{"Statement": f"INSERT INTO {name} VALUE {{'pk': 'a', 'n': ?}}", "Parameters": [n]} for n in (1, 2)]
    with pytest.raises(client.exceptions.ClientError, match="contains duplicates"):
        client.batch_execute_statement(Statements=[writes[0], writes[0]])
    for errors in ([None, None], ["DuplicateItem", "DuplicateItem"]):
        answers = client.batch_execute_statement(Statements=writes)["Responses"]
        assert [answer.get("Error", {}).get("Code") for answer in answers] == errors
    reads = [{"Statement": f"SELECT n FROM {name} WHERE pk = 'a' AND n = {n}"} for n in (1, 9)]
    answers = client.batch_execute_statement(Statements=reads)["Responses"]
    assert [answer.get("Item") for answer in answers] == [{"n": 1}, None]
    assert [answer.get("Item") for answer in client.execute_transaction(TransactStatements=reads)["Responses"]] == [{"n": 1}, None]
    both = [
        {"Statement": f"UPDATE {name} SET x = 1 WHERE pk = 'a' AND n = 1"},
        {"Statement": f"EXISTS(SELECT * FROM {name} WHERE pk = 'a' AND n = 2 AND x = 1)"},
    ]
    with pytest.raises(client.exceptions.TransactionCanceledException) as caught:
        client.execute_transaction(TransactStatements=both)
    assert [reason["Code"] for reason in caught.value.response["CancellationReasons"]] == ["None", "ConditionalCheckFailed"]
    both[1]["Statement"] = both[1]["Statement"].replace("x = 1", "x IS MISSING")
    client.execute_transaction(TransactStatements=both)
    assert run("SELECT x FROM @ WHERE pk = 'a'") == [{"x": 1}, {}]
