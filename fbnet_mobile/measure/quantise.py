"""Files for measuring: what an export makes, at a small part of what that costs in few bits.

A block's weights are random, so its quantised values mean nothing and only their types and shapes matter. A format may
therefore convert its files with ranges of activations that are given instead of found by running the model
(``Conversion.for_measuring``). ``tests/measure/test_quantise.py`` checks that the same operations on the same types
come out.
"""

import warnings
from pathlib import Path

from fbnet_mobile.formats import base as formats
from fbnet_mobile.graph.operations import Graph


def write(graph: Graph, path: Path, format: str, precision: str, first: bool = True, last: bool = True) -> None:  # noqa: A002
    """Write a graph to be measured; as :func:`fbnet_mobile.formats.base.write_new`, but int8 needs no images.

    Args:
        graph: a block's or a network's.
        path: where nothing is yet, ends in the format's suffix; may be left half written.
        format: of the file.
        precision: of the file.
        first: whether the graph begins a network, so takes float32.
        last: whether it ends one, so gives float32.

    Raises:
        UserError: an unknown format or precision, or a missing package.
        OSError: the file cannot be written, as on a full disk.
    """
    entry = formats.get_format(format)
    conversion = entry.conversions.get(precision)
    if conversion is None or conversion.for_measuring is None:
        entry.check(precision, calibrated=False)
        formats.write_new(graph, path, entry, {}, precision)
        return
    full = path.with_name(f"full-{path.name}")
    formats.write_new(graph, full, entry, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' remarks on their own debugging modes
        path.write_bytes(conversion.for_measuring(full.read_bytes(), first, last))
        full.unlink()
