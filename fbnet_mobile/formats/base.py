"""The file formats: one emitter a format, found by name or by a path's suffix, imported when used."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.files import write_whole
from fbnet_mobile.formats.packages import needs
from fbnet_mobile.formats.precision import check_precision, convert

if TYPE_CHECKING:  # reading a file's metadata should not wait for numpy
    from numpy.typing import NDArray

    from fbnet_mobile.graph.operations import Graph


class Emitter(Protocol):
    """What the module of a format provides. Both functions work on one file or folder of that format."""

    def write(self, graph: Graph, path: Path, metadata: Mapping[str, str], **options: Any) -> None:
        """Write ``graph`` to ``path``, which is not there yet; UserError for what the format has not.

        ``options`` are some of :attr:`Format.options`.
        """

    def read_metadata(self, path: Path) -> dict[str, str]:
        """Return the strings stored by :meth:`write`; UserError if ``path`` is no file of the format."""


@dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
        name: as users write it.
        suffix: of its files, with the dot.
        module: the emitter's.
        package: the package, beyond those always installed, that the emitter imports; "" for none.
        options: names of what may be asked for besides; the emitter's ``write`` describes them.
    """

    name: str
    suffix: str
    module: str
    package: str = ""
    options: frozenset[str] = frozenset()

    def emitter(self) -> Emitter:
        """Import the emitter; UserError with the line that installs its package if that is missing."""
        with needs(self.package, f"fbnet-mobile[{self.name}]"):
            return cast(Emitter, importlib.import_module(self.module))


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format("tflite", ".tflite", "fbnet_mobile.formats.tflite.write"),
        Format("onnx", ".onnx", "fbnet_mobile.formats.onnx.write", "onnx", frozenset({"opset", "dynamic_batch"})),
        Format("coreml", ".mlpackage", "fbnet_mobile.formats.coreml.write", package="coremltools"),
    )
}
"""Every format by name."""


def get_format(name: str) -> Format:
    """Return the format called ``name``; UserError listing the known ones."""
    if name not in FORMATS:
        raise UserError(f"unknown format '{name}'; choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def format_of(path: Path) -> Format:
    """Return the format whose suffix ``path`` has; UserError listing the known ones."""
    for entry in FORMATS.values():
        if path.suffix == entry.suffix:
            return entry
    choices = ", ".join(f"{entry.suffix} ({entry.name})" for entry in FORMATS.values())
    raise UserError(f"cannot tell the format of {path} by its suffix; it must be one of {choices}")


def check_suffix(path: Path, format: str) -> Format:  # noqa: A002
    """Return the format called ``format``; UserError if ``path`` has not its suffix."""
    found = get_format(format)
    if path.suffix != found.suffix:
        raise UserError(f"{path} does not end in {found.suffix}, as a file of the format {format} must; rename it")
    return found


def check_options(format: Format, options: Mapping[str, Any]) -> None:  # noqa: A002
    """UserError if one of ``options`` is not the format's."""
    for option in options:
        if option not in format.options:
            having = [entry.name for entry in FORMATS.values() if option in entry.options]
            where = f"only {', '.join(having)} has it" if having else "no format has it"
            raise UserError(f"{format.name} has no {option.replace('_', ' ')}; {where}")


def write(
    graph: Graph,
    path: Path,
    format: str,  # noqa: A002
    metadata: Mapping[str, str] | None = None,
    precision: str = "fp32",
    calibration: NDArray[Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write a graph to a file (a folder, for Core ML) of a format; whole, or not at all.

    Args:
        graph: what :func:`fbnet_mobile.graph.trace.trace` returned.
        path: ends in the format's suffix; what stands there is replaced.
        format: a key of :data:`FORMATS`.
        metadata: strings kept in the file, for :func:`read_metadata`.
        precision: "fp32", "fp16" or "int8"; see :mod:`fbnet_mobile.formats.precision`.
        calibration: (N, channels, height, width) images for int8, as the graph takes them.
        options: of the format; see :attr:`Format.options`.

    Raises:
        UserError: an unknown format, precision or option, another suffix, a missing package, an operation that the
            format has not, int8 without images, or a path that cannot be written to.
        JobError: writing failed half-way, as on a full disk.
    """
    entry = check_suffix(path, format)
    check_precision(format, precision, calibration is not None)
    check_options(entry, options or {})
    with write_whole(path) as partial:
        write_new(graph, partial, entry, metadata or {}, precision, calibration, options or {})


def write_new(
    graph: Graph,
    path: Path,
    format: Format,  # noqa: A002
    metadata: Mapping[str, str],
    precision: str,
    calibration: NDArray[Any] | None,
    options: Mapping[str, Any],
) -> None:
    """Do what :func:`write` does, at a path where nothing is yet, and that may be left half written."""
    emitter = format.emitter()
    with writing(path):
        if precision == "fp32":
            emitter.write(graph, path, dict(metadata), **options)
            return
        with tempfile.TemporaryDirectory() as folder:
            full = Path(folder) / path.name
            emitter.write(graph, full, dict(metadata), **options)
            convert(full, path, format.name, precision, calibration)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """JobError if what is written within, for ``path``, cannot be written."""
    try:
        yield
    except OSError as error:
        raise JobError(f"cannot write {path.name}: {error.strerror or error}; free some space there") from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the strings kept in a file of any format; empty for a file that :func:`write` did not make.

    Raises:
        UserError: the suffix is unknown, or there is no such file, or it is damaged.
    """
    emitter = format_of(path).emitter()
    if not path.exists():
        raise UserError(f"there is no model at {path}; check the path")
    return emitter.read_metadata(path)
