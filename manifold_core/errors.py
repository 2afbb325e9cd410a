"""The one error type for input that a user can correct."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Bad input: names the argument, its value and what was expected.

    The command line prints it without a traceback and exits with status 2.
    """
