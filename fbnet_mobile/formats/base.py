"""What a file format is, and what a runtime is: a record each, the registries of those there are, and the contract of
what runs a file.

A format's folder holds its writer, its runtime, its precisions and what it keeps of metadata; the folder's
``FORMAT`` names them all. A folder with a ``RUNTIME`` alone is of one that runs files of others' formats. Nothing heavy
is imported before one of them is called.
"""

from __future__ import annotations

import importlib
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from fbnet_mobile.errors import FbnetError, JobError, UserError, shown
from fbnet_mobile.files import write_whole
from fbnet_mobile.formats.packages import needs, quiet
from fbnet_mobile.registry import Registry, unknown

if TYPE_CHECKING:  # choosing a format should not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

    from fbnet_mobile.formats.int8 import Origin, Quantised
    from fbnet_mobile.graph.operations import Graph

    Images = NDArray[Any]
    Array = NDArray[np.float32]

FP32 = "fp32"
"""The precision that a format's writer writes, and every other is converted from."""


class Session(ABC):
    """A loaded model that takes and gives arrays in PyTorch's layout, whatever its own.

    Attributes:
        input_shapes: of every input, by name, (batch, channels, height, width) where it is of images; a batch of 0 if
            any will do.
        takes_pixels: whether the images are uint8, from 0 to 255, rather than float32 and normalised.
        channels_last: whether the file has channels behind height and width, in inputs and results of four axes.
    """

    def __init__(
        self, input_shapes: Mapping[str, tuple[int, ...]], takes_pixels: bool = False, channels_last: bool = False
    ) -> None:
        """Keep what is known of the inputs, given in the layout of the file."""
        order = (0, 3, 1, 2) if channels_last else (0, 1, 2, 3)
        self.input_shapes = {
            name: tuple(shape[axis] for axis in order) if len(shape) == 4 else tuple(shape)
            for name, shape in input_shapes.items()
        }
        self.takes_pixels = takes_pixels
        self.channels_last = channels_last

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the first input."""
        return next(iter(self.input_shapes.values()))

    @abstractmethod
    def compute(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return every result, float32, by name; the one of a network that has one is "output".

        Args:
            inputs: every one by name, of the batch that the file takes, in its layout; uint8 or float32.
        """

    def __call__(self, images: NDArray[Any]) -> Array:
        """Run any number of images, as many at a time as the file takes, through a network of one result.

        Args:
            images: (N, channels, height, width); uint8 or float32, see :attr:`takes_pixels`.

        Returns:
            (N, classes), or (N, channels, height, width) for a network that ends in a feature map.

        Raises:
            UserError: the shape does not fit the model's, it takes pixels and these are none, or it gives several
                results.
        """
        found = self.run(images)
        if len(found) != 1:
            raise UserError(f"the model gives {', '.join(found)}, none of which is its one answer; run it for all")
        return next(iter(found.values()))

    def run(self, images: NDArray[Any] | Mapping[str, NDArray[Any]]) -> dict[str, Array]:
        """Return every result, by name, for any number of images; of several inputs, all by name.

        Raises:
            UserError: the shape does not fit the model's, or it takes pixels and these are none.
        """
        import numpy as np

        shapes = self.input_shapes
        given = images if isinstance(images, Mapping) else {next(iter(shapes)): images}
        if set(given) != set(shapes):
            raise UserError(f"the model takes {', '.join(shapes)}, not {', '.join(given)}; give each by its name")
        for name, (batch, *rest) in shapes.items():
            found = given[name].shape
            if list(found[1:]) != rest or found[0] == 0 or (batch and found[0] % batch):
                wanted = ", ".join(str(size) for size in rest)
                raise UserError(
                    f"the model takes images of shape ({batch or 'N'}, {wanted}), not {found}; resize "
                    "them, or export the model for that size"
                )
            if self.takes_pixels and given[name].dtype != np.uint8:
                raise UserError(
                    f"the model takes uint8 pixels, not {given[name].dtype}; give images that are not normalised"
                )
        element = np.uint8 if self.takes_pixels else np.float32
        arrays = {name: np.ascontiguousarray(array, element) for name, array in given.items()}
        whole = len(next(iter(arrays.values())))
        step = next(iter(shapes.values()))[0] or whole
        results: dict[str, list[Array]] = {}
        try:
            for start in range(0, whole, step):
                part = {name: self._turned(array[start : start + step], (0, 2, 3, 1)) for name, array in arrays.items()}
                for name, array in self.compute(part).items():
                    results.setdefault(name, []).append(self._turned(array, (0, 3, 1, 2)))
            return {name: np.concatenate(found) for name, found in results.items()}
        except (FbnetError, MemoryError):
            raise
        except Exception as error:  # a runtime's own, of a file that could be loaded
            raise JobError(f"the model could not be run ({_first_line(error)}); export it again") from error

    def _turned(self, array: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
        """An array with its axes in another order, if the file has its own, and it is one of images."""
        import numpy as np

        return np.ascontiguousarray(array.transpose(axes)) if self.channels_last and array.ndim == 4 else array


class Writer(Protocol):
    """Writes a float32 file, or folder, of a format."""

    def __call__(self, graph: Graph, path: Path, metadata: Mapping[str, str], **options: Any) -> None:
        """Write ``graph`` to ``path``, which is not there yet; UserError for what the format has not.

        Equal graphs, metadata and options (some of :attr:`Format.options`) give equal bytes.
        """


class Loader(Protocol):
    """Loads a file into what runs it on this machine."""

    def __call__(self, path: Path, threads: int = 1) -> Session:
        """Load a model to run on a number of CPU threads.

        Raises:
            UserError: there is no such file, it is damaged or of another format, or the library is missing.
        """


@dataclass(frozen=True)
class Imported:
    """A function whose module is imported, in silence, when it is called.

    Attributes:
        place: "module:function".
        package: the package, beyond those always installed, that the module imports; "" for none.
        install: what pip must install for it.
    """

    place: str
    package: str = ""
    install: str = ""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Import the function and call it; UserError with what to install if its package is missing."""
        module, name = self.place.split(":")
        with needs(self.package, self.install), quiet():
            function = getattr(importlib.import_module(module), name)
        return function(*args, **kwargs)


@dataclass(frozen=True)
class Conversion:
    """How a format gets from its float32 file to another precision.

    Attributes:
        run: writes the file (third argument) from the float32 one (first) and images of shape (N, channels,
            height, width), as the file takes them. Inputs and outputs stay what they are. It may return what it chose.
            One that calibrates also takes ``origin``, what the float32 file was written from, or None.
        tolerance: the largest difference from PyTorch, relative to the largest logit, that an export accepts by
            default; infinite where what it costs depends on the network, and shows in the answers.
        calibrates: whether it looks at the images.
        options: names of what may be asked of ``run`` besides.
        for_measuring: the same for blocks that are only to be timed, at a small part of the cost: from the content of
            the float32 file and whether the block begins and ends a network; None if ``run`` serves.
    """

    run: Callable[..., Quantised | None]
    tolerance: float
    calibrates: bool = False
    options: frozenset[str] = frozenset()
    for_measuring: Callable[[bytes, bool, bool], bytes] | None = None


@dataclass(frozen=True)
class Runtime:
    """A library that runs files, and all that the product knows of it.

    Attributes:
        name: as users write it and tables state it.
        formats: names of the formats whose files it runs; blocks to be measured are written in the first.
        load: loads a file on this machine.
        version: its version on this machine; UserError with the line that installs it if it is missing.
        install: the command that installs it on a device.
        anywhere: whether every device that has a Python may have it; Core ML, for one, is only on a Mac.
        loader: how a device loads a file to time it: a Python file, without imports of this project, with
            ``version() -> str`` and ``load(path, threads)``, which returns the function to be timed. It is put on the
            device beside the runner. None if the runner itself knows the runtime.
        operation_times_us: what each operation of a file takes of one inference, in us, by the names that the file
            gives them: from the path, threads, inferences before those that count and those that count, the median of
            these. UserError if the file cannot be run. None if the runtime's profiler cannot be asked from Python.
    """

    name: str
    formats: tuple[str, ...]
    load: Loader
    version: Callable[[], str]
    install: str = ""
    anywhere: bool = True
    loader: Path | None = None
    operation_times_us: Callable[[Path, int, int, int], Mapping[str, float]] | None = None


@dataclass(frozen=True)
class Format:
    """A file format, and all that the product knows of it.

    Attributes:
        name: as users write it.
        suffix: of its files, with the dot.
        runtime: what runs them, unless another that can is asked for; see :meth:`run_by`.
        write: writes a float32 file.
        read_metadata: the strings that ``write`` stored in a file; UserError if it is none of the format.
        recognises: whether what exists at a path is a file of the format, so may be replaced by another.
        finish: completes a file in its last precision, given its metadata, by what else than its runtime reads of it.
        conversions: to other precisions than fp32, by name.
        options: names of what may be asked of ``write`` besides.
    """

    name: str
    suffix: str
    runtime: Runtime
    write: Writer
    read_metadata: Callable[[Path], dict[str, str]]
    recognises: Callable[[Path], bool]
    finish: Callable[[Path, Mapping[str, str]], None] = lambda path, metadata: None
    conversions: Mapping[str, Conversion] = field(default_factory=dict)
    options: frozenset[str] = frozenset()

    def load(self, path: Path, threads: int = 1) -> Session:
        """Load a file by its runtime; see :class:`Loader`."""
        return self.runtime.load(path, threads)

    def run_by(self, runtime: str | None) -> Format:
        """Return the format with another runtime; UserError if that does not run it, or there is none such."""
        if runtime is None:
            return self
        found = get_runtime(runtime)
        if self.name not in found.formats:
            raise UserError(f"{runtime} runs no files of the format {self.name}; it runs {', '.join(found.formats)}")
        return replace(self, runtime=found)

    @property
    def precisions(self) -> tuple[str, ...]:
        """What its files can be had in."""
        return (FP32, *self.conversions)

    def calibrates(self, precision: str) -> bool:
        """Whether it needs images to get to ``precision``; UserError for one that it has not."""
        if precision not in self.precisions:
            raise UserError(unknown("precision", precision, self.precisions))
        return precision != FP32 and self.conversions[precision].calibrates

    def check(self, precision: str = FP32, calibrated: bool = True, options: Mapping[str, Any] | None = None) -> None:
        """Check that it can be had in ``precision``, with images to calibrate on or without, and with ``options``.

        Raises:
            UserError: an unknown precision or option, or images are needed and there are none.
        """
        if self.calibrates(precision) and not calibrated:
            raise UserError(
                f"{precision} for {self.name} needs images to calibrate its activations on; give --calibration-data "
                "or --data (from Python: calibration=...)"
            )
        for option in options or {}:
            if option in frozenset().union(*(found.options for found in self.conversions.values())):
                if precision == FP32 or option not in self.conversions[precision].options:
                    where = ", ".join(name for name, found in self.conversions.items() if option in found.options)
                    raise UserError(
                        f"{precision} for {self.name} has no choice of {option.replace('_', ' ')}; only {where} has it"
                    )
            elif option not in self.options:
                having = [
                    entry.name
                    for entry in FORMATS.values()
                    if option in entry.options.union(*(found.options for found in entry.conversions.values()))
                ]
                where = f"only {', '.join(having)} has it" if having else "no format has it"
                raise UserError(f"{self.name} has no {option.replace('_', ' ')}; {where}")

    def replaces(self, path: Path) -> bool:
        """Whether what exists at ``path`` may be replaced by a file of the format: another one, no device or pipe."""
        return (path.is_file() or path.is_dir()) and self.recognises(path)


FORMATS: Registry[Format] = Registry("format")
"""Every format by name."""

RUNTIMES: Registry[Runtime] = Registry("runtime")
"""The runtimes by name that no format has for its own; see :func:`all_runtimes`."""


def get_format(name: str) -> Format:
    """Return the format called ``name``; UserError listing the known ones."""
    return FORMATS.get(name)


def format_of(path: Path) -> Format:
    """Return the format whose suffix ``path`` has; UserError listing the known ones."""
    for entry in FORMATS.values():
        if path.suffix == entry.suffix:
            return entry
    choices = ", ".join(f"{entry.suffix} ({entry.name})" for entry in FORMATS.values())
    raise UserError(f"cannot tell the format of {path} by its suffix; it must be one of {choices}")


def all_runtimes() -> dict[str, Runtime]:
    """Return every runtime by name, the formats' own first."""
    own = {entry.runtime.name: entry.runtime for entry in FORMATS.values()}
    return {**own, **{entry.name: entry for entry in RUNTIMES.values()}}


def get_runtime(name: str) -> Runtime:
    """Return the runtime called ``name``; UserError listing the known ones."""
    runtimes = all_runtimes()
    if name not in runtimes:
        raise UserError(unknown("runtime", name, tuple(runtimes)))
    return runtimes[name]


def format_of_runtime(runtime: str) -> Format:
    """Return the format in which blocks are written for a runtime, run by it; UserError listing the known runtimes."""
    return get_format(get_runtime(runtime).formats[0]).run_by(runtime)


def check_suffix(path: Path, format: str) -> Format:  # noqa: A002
    """Return the format called ``format``; UserError if ``path`` has not its suffix."""
    found = get_format(format)
    if path.suffix != found.suffix:
        raise UserError(f"{path} does not end in {found.suffix}, as a file of the format {format} must; rename it")
    return found


def write(
    graph: Graph,
    path: Path,
    format: str,  # noqa: A002
    metadata: Mapping[str, str] | None = None,
    precision: str = FP32,
    calibration: Images | None = None,
    options: Mapping[str, Any] | None = None,
) -> Quantised | None:
    """Write a graph to a file (a folder, for Core ML) of a format; whole, or not at all.

    Args:
        graph: what :func:`fbnet_mobile.graph.trace.trace` returned.
        path: ends in the format's suffix; an earlier file of the format there is replaced.
        format: name of a registered one.
        metadata: strings kept in the file, for :func:`read_metadata`.
        precision: one of :attr:`Format.precisions`.
        calibration: (N, channels, height, width) images for int8, as the graph takes them.
        options: of the format and of the conversion; see :attr:`Format.options` and :attr:`Conversion.options`.

    Returns:
        What the conversion chose, if it had a choice.

    Raises:
        UserError: an unknown format, precision or option, another suffix, a missing package, an operation that the
            format has not, int8 without images, or a path that cannot be written to or holds something else.
        JobError: writing failed half-way, as on a full disk.
    """
    entry = check_suffix(path, format)
    entry.check(precision, calibration is not None, options)
    with write_whole(path, replaces=entry.replaces) as partial:
        return write_new(graph, partial, entry, metadata or {}, precision, calibration, options or {})


def write_new(
    graph: Graph,
    path: Path,
    format: Format,  # noqa: A002
    metadata: Mapping[str, str],
    precision: str = FP32,
    calibration: Images | None = None,
    options: Mapping[str, Any] | None = None,
    check: Callable[[Path], None] = lambda _: None,
) -> Quantised | None:
    """Do what :func:`write` does, at a path where nothing is yet, and that may be left half written.

    ``check`` is called with the float32 file before it is converted, and may raise. Returns what the conversion chose.
    """
    own = {name: value for name, value in (options or {}).items() if name in format.options}
    if precision == FP32:
        format.write(graph, path, dict(metadata), **own)
        check(path)
        format.finish(path, metadata)
        return None
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        full = Path(folder) / path.name
        rest = {name: value for name, value in (options or {}).items() if name not in own}
        if format.calibrates(precision) and calibration is not None:
            graph = _equalised(graph, calibration, rest)
        format.write(graph, full, dict(metadata), **own)
        check(full)
        origin = None
        if format.calibrates(precision):
            from fbnet_mobile.formats.int8 import Origin

            origin = Origin(graph, lambda other, place: format.write(other, place, dict(metadata), **own))
        chosen = convert(full, path, format, precision, calibration, rest, origin)
    format.finish(path, metadata)
    return chosen


def _equalised(graph: Graph, images: Images, options: Mapping[str, Any]) -> Graph:
    """The graph, ready to be rounded; the same one if its ranges were learned with the weights that it has."""
    from fbnet_mobile.formats.correction import equalise
    from fbnet_mobile.graph.lowered import computable

    given = not isinstance(options.get("ranges", ""), str)
    return graph if given or not computable(graph) else equalise(graph, images)


def convert(
    source: Path,
    target: Path,
    format: Format,  # noqa: A002
    precision: str,
    calibration: Images | None = None,
    options: Mapping[str, Any] | None = None,
    origin: Origin | None = None,
) -> Quantised | None:
    """Write ``target``, of the same format and metadata as the float32 file ``source``.

    Args:
        source: as the format writes it.
        target: is not there yet.
        format: of both.
        precision: another than fp32.
        calibration: (N, channels, height, width) images, as the file takes them: normalised, or uint8 pixels; a
            few hundred serve. Only a conversion that calibrates looks at them.
        options: of the conversion; see :attr:`Conversion.options`.
        origin: what ``source`` was written from, for a conversion that calibrates.

    Returns:
        What the conversion chose, if it had a choice.

    Raises:
        UserError: as :meth:`Format.check`, or a package is missing.
        JobError: the library that converts fails.
    """
    format.check(precision, calibration is not None, options)
    import numpy as np

    images: Images = np.zeros((0,), np.float32) if calibration is None else calibration
    images = np.ascontiguousarray(images, np.uint8 if images.dtype == np.uint8 else np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' remarks on their own debugging modes
        more = {} if origin is None else {"origin": origin}
        try:
            return format.conversions[precision].run(source, images, target, **(options or {}), **more)
        except (FbnetError, MemoryError, OSError):
            raise
        except Exception as error:  # a converter's own, of a network that it cannot convert
            raise JobError(
                f"what converts {format.name} files cannot convert this one to {precision} ({_first_line(error)}); "
                "take another precision or format"
            ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """Return the strings kept in a file of any format; empty for a file that :func:`write` did not make.

    Raises:
        UserError: the suffix is unknown, or there is no such file, or it is damaged.
    """
    return format_of(path).read_metadata(existing(path))


def existing(path: Path) -> Path:
    """Return ``path``; UserError if nothing is there."""
    if not path.exists():
        raise UserError(f"there is no model at {path}; check the path")
    return path


@contextmanager
def loading(path: Path, runtime: str) -> Iterator[None]:
    """Let ``runtime``, as it is called in messages, load a file, in silence.

    Raises:
        UserError: nothing is there, or it cannot be loaded: whatever was raised within.
    """
    existing(path)
    try:
        with quiet():
            yield
    except FbnetError:
        raise
    except Exception as error:  # runtimes' own derive from Exception alone, and damaged files bring about any
        raise UserError(f"{runtime} cannot load {path}: {_first_line(error)}; export the model again") from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return shown(lines[0] if lines else repr(error))
