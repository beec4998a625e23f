"""What several processes of one run agree on."""

from collections.abc import Callable

from lightning_fabric import Fabric
from torch import Tensor

from fbnet_mobile.errors import FbnetError, JobError, UserError


def mean(fabric: Fabric, value: Tensor) -> Tensor:
    """The mean of a value over all processes; the value itself, untouched, where there is one process."""
    if fabric.world_size == 1:
        return value
    # Fabric reduces in place.
    reduced = fabric.all_reduce(value.clone(), reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


def total(fabric: Fabric, value: Tensor) -> Tensor:
    """The sum of a value over all processes."""
    return mean(fabric, value) * fabric.world_size


def in_first_process(fabric: Fabric, do: Callable[[], object]) -> None:
    """Do something in the first process while the others wait for it; if it fails, all of them end.

    Raises:
        FbnetError: what ``do`` raised; in the other processes a JobError that says that the first one failed.
    """
    failure: BaseException | None = None
    if fabric.is_global_zero:
        try:
            do()
        except Exception as error:  # the others are told whatever it was, and it is raised again
            failure = error
    if fabric.world_size > 1:
        known = isinstance(failure, FbnetError)
        words = fabric.broadcast(None if failure is None else str(failure) if known else type(failure).__name__)
        if words is not None and not fabric.is_global_zero:
            raise JobError(f"the first process failed: {words}")
    if failure is not None:
        raise failure


def require_whole_weights(fabric: Fabric) -> None:
    """Refuse strategies that give each process a part of the weights.

    Raises:
        UserError: FSDP, DeepSpeed or tensor parallelism was asked for.
    """
    name = type(fabric.strategy).__name__
    if any(kind in name for kind in ("FSDP", "DeepSpeed", "ModelParallel")):
        raise UserError(
            f"{name} gives each process a part of the weights, which pays for networks that do not fit into one "
            "accelerator; a network for phones does, and its state is kept by the first process alone: use ddp"
        )
