"""A real PostgreSQL server for tests, in a folder of its own, ended with them."""

import contextlib
import glob
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

#: The server refuses to run as root; this is nobody.
NOBODY = 65534
PASSWORD = "hush%hush"


def programs():
    """The folder of the newest server on this machine."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: int(path.split("/")[4]))
    path = found[-1] if found else shutil.which("initdb")
    assert path, "PostgreSQL is not on this machine: run tests/install.sh"
    return pathlib.Path(path).parent


class Database:
    """A running server that asks for a password on its port."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="dunlin-pg-"))
        self.folder.chmod(0o755)
        self.who = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self.data = self.folder / "data"
        if self.who:
            os.chown(self.folder, NOBODY, NOBODY)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        self.run("initdb", "-D", self.data, "-U", "dunlin", "-E", "UTF8", "--locale=C", "--pwfile", secret,
                 "--auth-local=trust", "--auth-host=scram-sha-256")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        with open(self.data / "postgresql.auto.conf", "a") as settings:
            settings.write(f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = '{self.folder}'\n"
                           "shared_buffers = 32MB\n")
        self.process = None
        self.start()

    def run(self, program, *arguments):
        """Runs one of PostgreSQL's programs."""
        return subprocess.run(
            [programs() / program, *map(str, arguments)], cwd=self.folder, env={"HOME": str(self.folder), "PATH": os.environ["PATH"]},
            capture_output=True, text=True, check=True, timeout=120, **self.who,
        ).stdout

    def start(self):
        """Starts the server and waits until it answers."""
        end = time.monotonic() + 30
        while time.monotonic() < end:
            # A killed server's processes may outlive it for a moment, and
            # while one holds its memory a new server refuses to start.
            if self.process is None or self.process.poll() is not None:
                self.launch()
            with contextlib.suppress(subprocess.CalledProcessError):
                self.run("pg_isready", "-q", "-h", self.folder, "-p", self.port)
                return
            time.sleep(0.05)
        # The newest lines say why; a long log is cut at its end.
        raise AssertionError((self.folder / "log").read_text()[-4000:])

    def launch(self):
        """Starts the server's process."""
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [programs() / "postgres", "-D", self.data], cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **self.who,
            )

    def kill(self):
        """Ends the server as a power failure would: it and all that it started."""
        self.process.send_signal(signal.SIGSTOP)
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        self.process.kill()
        for child in map(int, children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self.process.wait()

    def make(self, name):
        """Makes a database and returns its address."""
        self.sql("postgres", f'CREATE DATABASE "{name}"')
        return self.address(name)

    def address(self, name, password=PASSWORD):
        """The address of a database."""
        return f"postgres://dunlin:{password.replace('%', '%25')}@127.0.0.1:{self.port}/{name}"

    def sql(self, name, statement):
        """Runs a statement; rows as text."""
        return self.run("psql", "-h", self.folder, "-p", self.port, "-U", "dunlin", "-d", name, "-Atqc", statement).strip()

    def remove(self):
        """Ends the server and removes its folder."""
        if self.process and self.process.poll() is None:
            # At once: nobody needs what it keeps.
            self.process.send_signal(signal.SIGQUIT)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
