"""Hooks around a snapshot, as Lambda's module of this name offers them to functions.

A function registers what is to run before its snapshot is taken, and after each environment was made from it; each takes
the arguments that were registered with it, and is given back, so that they serve as decorators. The platform runs them
(`dunlin_snapshot.py`).
"""

__all__ = ["register_before_snapshot", "register_after_restore"]

_BEFORE_SNAPSHOT = []
_AFTER_RESTORE = []


def register_before_snapshot(func, *args, **kwargs):
    """Has `func` run before the snapshot; the one that was registered last runs first."""
    _BEFORE_SNAPSHOT.append((func, args, kwargs))
    return func


def register_after_restore(func, *args, **kwargs):
    """Has `func` run in every environment that is made from the snapshot, in the order of registration."""
    _AFTER_RESTORE.append((func, args, kwargs))
    return func


def get_before_snapshot():
    """What is registered for before the snapshot: a list of function, arguments, named arguments."""
    return _BEFORE_SNAPSHOT


def get_after_restore():
    """What is registered for after the restore, in the same form."""
    return _AFTER_RESTORE
