"""The Ruby and PHP guests as children over a socket pair, without a sandbox: frames, however they arrive, and how the
processes end. What functions see is tested through the platform (tests/sdk/test_ruby.py, tests/sdk/test_php.py)."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
INTERPRETERS = (HERE.parent / "crates/sandbox/src/interpreter.rs").read_text()
LOAD, INVOKE, BOOTED, READY, INIT_ERROR, RESPONSE, ERROR = 1, 2, 15, 16, 17, 18, 19
MESSAGE_BYTES = 32 * 1024
RUBY = """
$calls = 0
def handler(event:, context:)
  $calls += 1
  case event['do']
  when 'raise' then raise 'bad'
  when 'exit!' then exit! 3
  when 'exit' then exit
  when 'kill' then Process.kill(:KILL, $$); sleep
  when 'large' then 'x' * event['bytes']
  else [event, $calls]
  end
end
"""
PHP = """<?php
class State { static int $calls = 0; }
return function ($event) {
    State::$calls++;
    switch ($event['do'] ?? '') {
        case 'raise': throw new Exception('bad');
        case 'exit!': exit(3);
        case 'kill': posix_kill(getmypid(), 9); sleep(60);
        case 'child': exec('sleep 60 >/dev/null 2>&1 & echo $!', $lines); file_put_contents($event['file'], $lines[0]); exit(4);
        case 'large': return str_repeat('x', $event['bytes']);
    }
    return [$event, State::$calls];
};
"""


def flags(name):
    """How the platform starts an interpreter: its words, with the guest's place here."""
    words = re.search(rf"{name}_FLAGS: &\[&str\] =\s*&\[(.*?)\];", INTERPRETERS, re.S).group(1)
    return [word.replace("/var/runtime", str(HERE)) for word in re.findall(r'"([^"]*)"', words)]


class Guest:
    """A guest, and the platform's end of its channel."""

    def __init__(self, command, kind=socket.SOCK_SEQPACKET, **variables):
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, kind)
        self.channel.settimeout(30)
        place = os.dup(theirs.fileno())
        # Descriptor 3 may be in use here: the shell puts it there.
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", f'exec "$@" 3<&{place}', "sh", *command], pass_fds=[place], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"} | variables,
        )
        os.close(place)
        theirs.close()
        self.rest = b""

    def send(self, kind, body, size=MESSAGE_BYTES):
        frame = struct.pack("<IB", len(body) + 1, kind) + body
        for start in range(0, len(frame), size):
            self.channel.send(frame[start : start + size])

    def read(self):
        """The next frame's kind and body; nothing at the end."""
        while len(self.rest) < 4 or len(self.rest) < 4 + struct.unpack("<I", self.rest[:4])[0]:
            more = self.channel.recv(2 * MESSAGE_BYTES)
            if not more:
                return None
            assert len(more) <= MESSAGE_BYTES
            self.rest += more
        end = 4 + struct.unpack("<I", self.rest[:4])[0]
        frame, self.rest = self.rest[:end], self.rest[end:]
        return frame[4], frame[5:]

    def load(self, folder, handler, **environment):
        assert self.read() == (BOOTED, b"")
        order = {"root": str(folder), "handler": handler, "environment": environment, "cold": True}
        self.send(LOAD, json.dumps(order).encode())
        return self.read()

    def ask(self, event, size=MESSAGE_BYTES):
        meta = json.dumps({"requestId": "r", "deadlineMs": int(time.time() * 1000) + 9_000, "functionArn": "a"}).encode()
        self.send(INVOKE, struct.pack("<I", len(meta)) + meta + json.dumps(event).encode(), size)

    def call(self, event, size=MESSAGE_BYTES):
        """The kind of the answer, and what it says."""
        self.ask(event, size)
        kind, body = self.read() or (None, b"")
        if kind == RESPONSE:
            took, length = struct.unpack("<II", body[:8])
            assert took < 30_000_000 and body[8 : 8 + length] == b"application/json"
            body = body[8 + length :]
        return kind, json.loads(body) if body else None

    def end(self):
        """How it ends once nobody speaks with it."""
        self.channel.close()
        return self.process.wait(30)


class Cases:
    """What holds for both."""

    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        (self.folder / self.file).write_text(self.code)
        self.guests = []

    def tearDown(self):
        for guest in self.guests:
            guest.channel.close()
            if guest.process.poll() is None:
                guest.process.kill()
            guest.process.wait()
        shutil.rmtree(self.folder)

    def guest(self, kind=socket.SOCK_SEQPACKET, **variables):
        guest = Guest([self.program, *flags(self.program.upper())], kind, **variables)
        self.guests.append(guest)
        return guest

    def loaded(self, *arguments, **environment):
        guest = self.guest(*arguments)
        self.assertEqual(guest.load(self.folder, self.handler, **environment), (READY, b""))
        return guest

    def test_frames_of_any_size_come_and_go(self):
        guest = self.loaded()
        for event in [{}, {"a": "ü☃🐦"}, {"text": "y" * 3_000_000}, [1]]:
            kind, answer = guest.call(event if isinstance(event, dict) else {"list": event})
            self.assertEqual((kind, answer[0] or {}), (RESPONSE, event if isinstance(event, dict) else {"list": event}))
        self.assertEqual(guest.call({"do": "large", "bytes": 6_000_000}), (RESPONSE, "x" * 6_000_000))
        kind, answer = guest.call({"do": "large", "bytes": 6_400_000})
        self.assertEqual((kind, answer["errorType"]), (ERROR, "Function.ResponseSizeTooLarge"))
        self.assertEqual(guest.end(), 0)

    def test_a_stream_that_cuts_frames_anywhere_serves_as_well(self):
        guest = self.loaded(socket.SOCK_STREAM)
        self.assertEqual(guest.call({"a": "b" * 100}, size=7)[1][0], {"a": "b" * 100})

    def test_one_that_was_booted_ahead_is_like_another(self):
        guest = self.guest(_DUNLIN_AHEAD="1")
        self.assertEqual(guest.load(self.folder, self.handler), (READY, b""))
        self.assertEqual(guest.call({"a": 1})[1][0], {"a": 1})

    def test_an_end_before_a_function_comes_is_an_end(self):
        guest = self.guest()
        self.assertEqual(guest.read(), (BOOTED, b""))
        self.assertEqual(guest.end(), 0)

    def test_errors_are_answered_and_a_missing_handler_ends_the_process(self):
        guest = self.loaded()
        kind, answer = guest.call({"do": "raise"})
        self.assertEqual((kind, answer["errorMessage"]), (ERROR, "bad"))
        self.assertEqual(guest.call({})[0], RESPONSE)
        guest = self.guest()
        kind, body = guest.load(self.folder, "none." + self.handler.rsplit(".", 1)[1])
        self.assertEqual(kind, INIT_ERROR)
        self.assertEqual(set(json.loads(body)), {"errorType", "errorMessage", "stackTrace"})
        self.assertIsNone(guest.read())
        self.assertNotEqual(guest.process.wait(30), 0)

    def test_it_ends_as_the_function_ends_it(self):
        guest = self.loaded()
        self.assertEqual(guest.call({"do": "exit!"}), (None, None))
        self.assertEqual(guest.process.wait(30), 3)
        guest = self.loaded()
        self.assertEqual(guest.call({"do": "kill"}), (None, None))
        self.assertEqual(guest.process.wait(30), -signal.SIGKILL)


@unittest.skipUnless(shutil.which("ruby"), "no Ruby")
class Ruby(Cases, unittest.TestCase):
    """The Ruby guest."""

    program, file, code, handler = "ruby", "app.rb", RUBY, "app.handler"

    def test_an_exit_is_an_answer_and_then_the_end(self):
        guest = self.loaded()
        kind, answer = guest.call({"do": "exit"})
        self.assertEqual((kind, answer["errorType"]), (INIT_ERROR, "Function<SystemExit>"))
        self.assertEqual(guest.process.wait(30), 255)


@unittest.skipUnless(shutil.which("php"), "no PHP")
class Php(Cases, unittest.TestCase):
    """The PHP guest."""

    program, file, code, handler = "php", "index.php", PHP, "index.php"

    def test_each_call_has_a_process_of_its_own_unless_more_is_asked_for(self):
        guest = self.loaded()
        self.assertEqual([guest.call({})[1][1] for _ in range(3)], [1, 1, 1])
        guest = self.loaded(BREF_LOOP_MAX="2")
        self.assertEqual([guest.call({})[1][1] for _ in range(4)], [1, 2, 1, 2])
        self.assertEqual(guest.call({"do": "raise"})[0], ERROR)
        self.assertEqual(guest.call({})[1][1], 1)

    def test_what_the_function_has_started_does_not_hold_up_its_end(self):
        guest = self.loaded()
        file = self.folder / "child"
        try:
            # The program has the channel as well: its end says nothing.
            guest.ask({"do": "child", "file": str(file)})
            self.assertEqual(guest.process.wait(30), 4)
        finally:
            os.kill(int(file.read_text()), signal.SIGKILL)

    def test_settings_of_the_package_are_read_by_a_process_of_the_same_number(self):
        (self.folder / "php/conf.d").mkdir(parents=True)
        (self.folder / "php/conf.d/own.ini").write_text("precision=5\n")
        (self.folder / "ini.php").write_text("<?php return fn () => ini_get('precision');")
        guest = self.guest()
        self.assertEqual(guest.load(self.folder, "ini.php"), (READY, b""))
        self.assertEqual([guest.call({}) for _ in range(2)], [(RESPONSE, "5")] * 2)
        self.assertEqual(guest.end(), 0)


if __name__ == "__main__":
    unittest.main()
