"""Starts the managed Python guest of `dunlin_guest.py`, which lies beside this file.

It is a file of its own because an interpreter compiles its main script at every start, but takes a module from the
compiled form beside it where there is one. The folder is on the module path for that one import only: the function's
modules may have any name.
"""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import dunlin_guest  # noqa: E402  pylint: disable=wrong-import-position

dunlin_guest.main()
