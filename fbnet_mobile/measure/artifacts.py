"""What a model file that is to be measured is, by which it is named."""

import hashlib
import importlib.metadata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property

from fbnet_mobile.arch import Block
from fbnet_mobile.latency.table import LatencyTable

_CONVERTERS = ("litert-converter", "litert-quantizer", "onnx", "onnxruntime", "coremltools", "executorch")
"""Packages that write model files, or convert them to fewer bits."""


@cache
def tools() -> str:
    """Versions of what writes model files here, this package first."""
    found = []
    for package in ("fbnet-mobile", *_CONVERTERS):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


@dataclass(frozen=True)
class Artifact:
    """A model file of a chain of blocks with random weights.

    Attributes:
        kind: of the row of a table that it is measured for.
        blocks: the chain; none for the fixed cost of an invocation.
        format: of the file.
        precision: of the file.
        input: type of a whole network's input.
        tools: versions of what wrote it: another converter writes another file.
    """

    kind: str
    blocks: tuple[Block, ...]
    format: str
    precision: str
    input: str
    tools: str

    @cached_property
    def row(self) -> tuple[str, str]:
        """Key of its row in a table."""
        return LatencyTable.row_key(self.kind, self.blocks)

    @cached_property
    def name(self) -> str:
        """A short name, the same only for the same file."""
        what = (self.row[1], self.format, self.precision, self.input, self.tools)
        return hashlib.sha256("\n".join(what).encode()).hexdigest()[:16]


def artifacts(chains: Iterable[tuple[str, tuple[Block, ...]]], format: str, precision: str) -> list[Artifact]:  # noqa: A002
    """The artifacts, written here, of chains of blocks, each with the kind of its row."""
    return [Artifact(kind, blocks, format, precision, "float32", tools()) for kind, blocks in chains]
