"""The two ways a command ends early; each becomes one line on stderr and an exit code."""


class FbnetError(Exception):
    """Base of the errors that a command prints as one line instead of a traceback."""

    exit_code = 1


class UserError(FbnetError):
    """The input or the request is wrong: the message says what, where, and what to do about it."""

    exit_code = 2


class JobError(FbnetError):
    """The request was right, but the job could not be finished (a device went away, a check failed)."""
