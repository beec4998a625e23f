"""What a step and an epoch have in common, whatever is trained."""

from lightning_fabric import Fabric
from torch import Tensor


def mean(fabric: Fabric, value: Tensor) -> Tensor:
    """The mean of a value over all processes; the value itself, untouched, where there is one process."""
    if fabric.world_size == 1:
        return value
    # Fabric reduces in place.
    reduced = fabric.all_reduce(value.clone(), reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced
