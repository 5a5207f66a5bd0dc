"""Starts the zygote of `dunlin_zygote.py`, which lies beside this file; see `bootstrap.py`."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import dunlin_zygote  # noqa: E402  pylint: disable=wrong-import-position

dunlin_zygote.main()
