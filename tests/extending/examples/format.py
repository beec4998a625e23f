"""A file format of one's own: the network as a .npz of its operations and weights, run by PyTorch."""

import json
from pathlib import Path

import format_loader
import numpy as np

from fbnet_mobile.errors import UserError
from fbnet_mobile.formats.base import FORMATS, Format, Runtime, Session, loading


def write(graph, path, metadata):
    """Store the operations and the metadata as JSON beside the weights."""
    for node in graph.nodes:
        if node.op not in format_loader.OPERATIONS:
            raise UserError(f"cannot write {node.name} (in '{node.source}') to npz: it has no {node.op}")
    head = {
        "input_shape": graph.input_shape,
        "pixels": graph.pixels,
        "nodes": [[node.name, node.op, node.inputs, node.shape, dict(node.attributes)] for node in graph.nodes],
        "output": graph.output,
        "metadata": dict(sorted(metadata.items())),
    }
    weights = {f"{node.name}/{role}": array for node in graph.nodes for role, array in node.weights.items()}
    with path.open("wb") as file:
        np.savez(file, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **weights)


def read_head(path):
    """The JSON in a file; UserError if it is none of this format."""
    try:
        return format_loader.Model(path).head
    except Exception as error:
        raise UserError(f"{path} is no npz of a network; export it again") from error


def recognises(path):
    """Whether an export may replace what is there."""
    try:
        return "nodes" in read_head(path)
    except UserError:
        return False


class NpzSession(Session):
    """A file in this process."""

    def __init__(self, model):
        super().__init__({"input": tuple(model.head["input_shape"])}, model.head["pixels"])
        self.model = model

    def compute(self, inputs):
        return {"output": self.model.run(inputs["input"]).numpy()}


def load(path, threads=1):
    """Load a file to run it here."""
    with loading(path, "npz"):
        return NpzSession(format_loader.Model(path))


FORMATS.add(
    "npz",
    Format(
        name="npz",
        suffix=".npz",
        runtime=Runtime(
            name="npz-torch",
            formats=("npz",),
            load=load,
            version=format_loader.version,
            install="python3 -m pip install torch",
            loader=Path(format_loader.__file__),
        ),
        write=write,
        read_metadata=lambda path: read_head(path)["metadata"],
        recognises=recognises,
    ),
)
