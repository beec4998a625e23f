"""The two ways a command ends early, each of which becomes one line on stderr and an exit code."""

from collections.abc import Iterator
from contextlib import contextmanager


class FbnetError(Exception):
    """Base of the errors that a command prints as one line instead of a traceback."""

    exit_code = 1


class UserError(FbnetError):
    """The input or the request is wrong: the message says what, where, and what to do about it."""

    exit_code = 2


class JobError(FbnetError):
    """The request was right, but the job could not be finished (a device went away, a check failed)."""


def shown(value: object, most: int = 200) -> str:
    """What a user gave, for a message: on one line, control characters escaped, the middle of what is long left out.

    >>> shown("a" + chr(10) + "b")
    'a\\nb'

    Args:
        value: a name, a path or a number.
        most: how many characters there may be.
    """
    try:
        text = str(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = "a number of thousands of digits"
    text = "".join(map(_escaped, text))
    end = (most - 3) // 2
    return text if len(text) <= most else f"{text[: most - 3 - end]}...{text[-end:]}"


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # how Python keeps a byte of a name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return ascii(character)[1:-1]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of an accelerator; torch says the former by a RuntimeError's text."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        words in str(error) for words in ("can't allocate memory", "out of memory")
    )


@contextmanager
def enough_memory(what: str, remedy: str) -> Iterator[None]:
    """Turn running out of memory into one line.

    Args:
        what: was too large, such as "a batch of 64 images of 224 x 224 pixels".
        remedy: what to do, such as "use a smaller --batch-size".

    Raises:
        JobError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise JobError(f"too little memory for {what}; {remedy}") from error
