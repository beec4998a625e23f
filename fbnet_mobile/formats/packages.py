"""How others' packages are used: a missing one is named with what installs it, and all are kept silent."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from fbnet_mobile.errors import UserError


@contextmanager
def needs(package: str, install: str) -> Iterator[None]:
    """Turn the absence of ``package``, imported within, into an error that says how to install it.

    Args:
        package: name of the module; the absence of any other passes through, being another fault.
        install: what pip must install, such as ``fbnet-mobile[onnx]``.

    Raises:
        UserError: ``package`` is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not package or error.name != package:
            raise
        raise UserError(f"the package {package} is not installed; run: pip install '{install}'") from error


# Never closed: a library imported while all is quiet may keep the stream for its log.
_NOWHERE = open(os.devnull, "w")  # noqa: SIM115, PTH123


@contextmanager
def quiet() -> Iterator[None]:
    """Discard what is written to the process's standard output and error, by native code as well.

    Nothing can be lost but chatter: a failure in the libraries that are run within raises. The redirection
    holds for the whole process, so keep it short.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    handlers = logging.root.handlers[:]
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with redirect_stdout(_NOWHERE), redirect_stderr(_NOWHERE):
            yield
    finally:
        # logging.warning gives a root logger without handlers one, here to nowhere, which would outlive this.
        logging.root.handlers[:] = handlers
        sys.stdout.flush()
        sys.stderr.flush()
        for number, original in enumerate(saved, start=1):
            os.dup2(original, number)
            os.close(original)
        os.close(nowhere)
