"""The two errors a user may meet; the command line turns them into exit codes 2 and 1."""


class InputError(ValueError):
    """Something the user passed cannot be used; the message names the file or argument, its value and the mend."""


class RunError(RuntimeError):
    """Valid input, but the run could not be finished."""
