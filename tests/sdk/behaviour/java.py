"""Java, by AWS's runtime client."""

import functools
import pathlib
import tempfile

from test_java import JARS, RUNTIME, compiled
from conftest import ROOT

from . import Runtime


@functools.cache
def classes():
    """The probe's, and the jars that it needs."""
    with tempfile.TemporaryDirectory() as folder:
        files = compiled(pathlib.Path(folder), [ROOT / "tests/java/functions/Probe.java"])
    for jar in JARS.glob("aws-lambda-java-core*.jar"):
        files[f"lib/{jar.name}"] = jar.read_bytes()
    return files


class Java(Runtime):
    """The managed runtime."""

    name = "java"
    server = "java"
    runtime = RUNTIME
    handler = "functions.Probe"
    memory = 512
    execution_env = f"AWS_Lambda_{RUNTIME}"
    error_type = init_error_type = "functions.Probe$ProbeError"
    surrogate = b'"\\uD800"'
    out_of_memory = ("java.lang.OutOfMemoryError", "Java heap space")

    def missing(self):
        return None if JARS.is_dir() else "the jars could not be installed (tests/install.sh says why)"

    def files(self):
        return classes()

    def lost(self, server):
        name = server.function(self.files(), runtime=RUNTIME, handler="functions.None", MemorySize=512)
        return name, "java.lang.ClassNotFoundException", "functions.None"
