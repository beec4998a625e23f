"""A network that gives an app what it shows: the probability of each class."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fbnet_mobile.errors import UserError
from fbnet_mobile.graph.operations import OUTPUT, Graph, Node

PROBABILITIES = "probabilities"
"""Name of the node that makes them; a node of the network itself is never called so, as its name ends in its
operation's."""


def give_probabilities(graph: Graph) -> Graph:
    """Return a graph that gives the softmax of what ``graph`` gives; the same one if it ends in that already.

    Raises:
        UserError: the network gives no logits: a feature map, or a single number.
    """
    output = graph.node(graph.output)
    if len(graph.outputs) > 1:
        raise UserError(f"cannot give probabilities of several results, {', '.join(graph.outputs)}; ask for logits")
    if len(output.shape) != 2 or output.shape[1] == 1:
        raise UserError(
            f"cannot give probabilities of what has the shape {output.shape}: they need one logit for each of several "
            "classes; ask for logits"
        )
    if output.op == "softmax":
        return graph
    last = Node(PROBABILITIES, "softmax", (output.name,), output.shape, {"axis": 1})
    return replace(graph, nodes=(*graph.nodes, last), outputs={OUTPUT: last.name})


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities, (N, classes), of logits."""
    powers = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    result: NDArray[np.float32] = (powers / powers.sum(1, keepdims=True)).astype(np.float32)
    return result


_LEAST = 1e-6
"""A probability under it counts as this one: 16-bit floats hold less of a smaller one."""


def as_logits(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return logits, of mean 0, that give such probabilities, so that a confident network's faults show in full."""
    logits = np.log(np.maximum(probabilities, np.float32(_LEAST)))
    result: NDArray[np.float32] = logits - logits.mean(1, keepdims=True)
    return result
