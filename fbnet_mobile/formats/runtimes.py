"""Running model files on this machine: one runtime a file format, imported when used."""

import importlib
from pathlib import Path

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.session import Runtime, Session

__all__ = ["RUNTIMES", "Runtime", "Session", "get_runtime", "runtime_for_format", "runtime_for_path"]

RUNTIMES: dict[str, tuple[str, str, str]] = {
    "litert": ("tflite", "fbnet_mobile.formats.tflite.run", ".tflite"),
    "onnxruntime": ("onnx", "fbnet_mobile.formats.onnx.run", ".onnx"),
    "coreml": ("coreml", "fbnet_mobile.formats.coreml.run", ".mlpackage"),
}
"""For each runtime: the format it runs, the module whose RUNTIME it is, and the suffix of its files."""


def get_runtime(name: str) -> Runtime:
    """Return the runtime called ``name``; UserError listing the known ones."""
    if name not in RUNTIMES:
        raise UserError(f"unknown runtime '{name}'; choose one of {', '.join(RUNTIMES)}")
    runtime: Runtime = importlib.import_module(RUNTIMES[name][1]).RUNTIME
    return runtime


def runtime_for_format(format: str) -> Runtime:  # noqa: A002
    """Return the runtime of a format; UserError listing the known formats."""
    for name, (runs, _, _) in RUNTIMES.items():
        if runs == format:
            return get_runtime(name)
    known = ", ".join(runs for runs, _, _ in RUNTIMES.values())
    raise UserError(f"no runtime for the format '{format}'; choose one of {known}")


def runtime_for_path(path: Path) -> Runtime:
    """Return the runtime of a file by its suffix; UserError listing the known suffixes."""
    for name, (_, _, suffix) in RUNTIMES.items():
        if path.suffix == suffix:
            return get_runtime(name)
    known = ", ".join(suffix for _, _, suffix in RUNTIMES.values())
    raise UserError(f"cannot tell the format of {path} by its suffix; it must be one of {known}")
