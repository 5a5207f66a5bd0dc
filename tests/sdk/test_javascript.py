"""The AWS SDKs for JavaScript: runs the files of `tests/js` with Node.js against a server of each kind."""

import pathlib
import subprocess

import pytest

from conftest import zipped

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "js"
HANDLER = """
exports.handler = async (event) => {
  console.log("called with", event);
  if (event?.fail) throw new TypeError(event.fail);
  return { said: "%s", event };
};
"""
STREAM = """
exports.handler = awslambda.streamifyResponse(async (event, stream) => {
  stream.write("first ");
  if (event.fail) throw new TypeError("half way");
  stream.end("last");
});
"""


@pytest.mark.parametrize(
    ("file", "tests"), [("sdk.test.js", 9), ("tables.test.js", 6), ("sdk-v2.test.js", 4), ("lambda.test.js", 11)]
)
def test_sdk_for_javascript(server, tmp_path, file, tests):
    assert (FOLDER / "node_modules").is_dir(), "the SDK is not installed: run tests/install.sh"
    for word in ["one", "two"]:
        (tmp_path / f"{word}.zip").write_bytes(zipped({"handler.js": HANDLER % word}))
    (tmp_path / "stream.zip").write_bytes(zipped({"handler.js": STREAM}))
    environment = server.environment(ENDPOINT=server.url, SERVER_MODE=server.mode, PACKAGES=str(tmp_path))
    del environment["AWS_ENDPOINT_URL"]
    done = subprocess.run(
        ["node", "--test", "--test-reporter=spec", file], cwd=FOLDER, env=environment, capture_output=True, text=True,
        timeout=300, check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    # A run that found no test also ends with 0.
    assert f"pass {tests}\n" in done.stdout, done.stdout
