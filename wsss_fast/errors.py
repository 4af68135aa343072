"""The two errors that a user may see; the command line turns them into exit codes 2 and 1."""


class InputError(ValueError):
    """An input cannot be used; the message names the file or argument, its value and the fix."""


class RunError(RuntimeError):
    """The input is valid, but the run could not be finished."""
