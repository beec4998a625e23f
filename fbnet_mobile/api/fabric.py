"""Where weights are trained, from the options."""

import atexit
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from fbnet_mobile.api.call import first_line
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.recipe import MachineOptions

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_MOST = 1024
_PRECISIONS: "Mapping[str | None, Literal['32-true', 'bf16-mixed', '16-mixed']]" = {
    None: "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


def make_fabric(machine: MachineOptions) -> "Fabric":
    """A launched ``lightning_fabric.Fabric``; several processes leave their group before their interpreters end.

    Raises:
        UserError: the machine does not have what was asked for.
    """
    devices = machine.devices
    if devices != "auto" and not (devices.isascii() and devices.isdecimal() and 1 <= int(devices[:9]) <= _MOST):
        raise UserError(f"'{shown(devices, 40)}' is not a number of devices; give one from 1 to {_MOST}, or auto")

    from lightning_fabric import Fabric

    try:
        fabric = Fabric(
            accelerator=machine.accelerator,
            devices=devices if devices == "auto" else int(devices),
            precision=_PRECISIONS[machine.mixed_precision],
        )
    # Lightning has an exception of its own besides, MisconfigurationException, which is none of its public names.
    except Exception as error:
        known = isinstance(error, ValueError | RuntimeError | TypeError)
        if known or type(error).__name__ == "MisconfigurationException":
            raise UserError(f"cannot train there: {first_line(error)}") from error
        raise
    fabric.launch()
    if fabric.world_size > 1:
        atexit.register(_leave_the_others)
    return fabric


def _leave_the_others() -> None:
    """Lightning does so for NCCL alone; of gloo's threads one that still runs may abort a process that has finished."""
    from torch import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
