"""PHP in Bref's shape, on the host's interpreter."""

import shutil

from . import Runtime, source


class Php(Runtime):
    """A custom runtime whose handler is a PHP file. A process of it serves many calls here, which Bref leaves to a variable."""

    name = "php"
    handler = "probe.php"
    variables = {"BREF_LOOP_MAX": "1000"}

    def missing(self):
        return None if shutil.which("php") else "PHP is not there (tests/install.sh says why)"

    def files(self):
        return {"probe.php": source("probe.php")}

    def lost(self, server):
        return server.function({"a": "b"}, runtime=self.runtime, handler="none.php"), "Runtime.HandlerNotFound", "none.php"
