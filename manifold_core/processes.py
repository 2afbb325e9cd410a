"""Modules that are run in processes of their own."""

import sys

__all__ = ["command_of"]


def command_of(module: str, *arguments: str) -> list[str]:
    """The command that runs a module as a script, with imports from where this process has them from: with
    ``python -m`` the current folder would come first, and a user's ``random.py`` there be taken for Python's."""
    path = [*map(str, sys.path)]
    run = f"import sys; sys.path[:] = {path!r}; import runpy; runpy.run_module({module!r}, None, '__main__', True)"
    return [sys.executable, "-c", run, *arguments]
