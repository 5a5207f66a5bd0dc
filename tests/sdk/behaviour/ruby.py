"""Ruby, on the host's interpreter."""

import shutil

from . import Runtime, source


class Ruby(Runtime):
    """The managed runtime."""

    name = "ruby"
    runtime = "ruby3.3"
    handler = "probe.handler"
    execution_env = "AWS_Lambda_ruby3.3"
    error_type = "Function<ProbeError>"
    init_error_type = "Init<ProbeError>"

    def missing(self):
        return None if shutil.which("ruby") else "Ruby is not there (tests/install.sh says why)"

    def files(self):
        return {"probe.rb": source("probe.rb")}

    def lost(self, server):
        name = server.function(self.files(), runtime=self.runtime, handler="probe.nothing")
        return name, "Function<NoMethodError>", "undefined method `nothing'"
