"""Modules that are run in processes of their own, and what these say to the one that started them."""

import json
import sys
from typing import Any

__all__ = ["command_of", "said", "say"]

OWN = "found: "  # how the lines of :func:`say` begin


def command_of(module: str, *arguments: str) -> list[str]:
    """The command that runs a module as a script, with imports from where this process has them from: with
    ``python -m`` the current folder would come first, and a user's ``random.py`` there be taken for Python's."""
    path = [*map(str, sys.path)]
    run = f"import sys; sys.path[:] = {path!r}; import runpy; runpy.run_module({module!r}, None, '__main__', True)"
    return [sys.executable, "-c", run, *arguments]


def say(what: Any) -> None:
    """Print it as a line of JSON that :func:`said` finds among what others print, such as MKL where MKL_VERBOSE is
    set."""
    print(f"\n{OWN}{json.dumps(what)}", flush=True)  # after a line that another may have left unfinished


def said(printed: str) -> list[Any]:
    """All that :func:`say` has printed, but for a last line that was cut off."""
    lines = (line for line in printed.splitlines(keepends=True) if line.startswith(OWN) and line.endswith("\n"))
    return [json.loads(line.removeprefix(OWN)) for line in lines]
