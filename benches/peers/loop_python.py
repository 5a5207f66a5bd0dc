"""Peer: the handler of functions/python for each message on a socket that is the standard input, and nothing else. Argument: the
handler's folder. For `front`, which is behind HTTP what a platform would be at the least.
"""
import json
import os
import sys

sys.path.insert(0, sys.argv[1])
from handler import handler  # noqa: E402  pylint: disable=wrong-import-position

while event := os.read(0, 65536):
    os.write(0, handler(json.loads(event), None)["body"].encode())
