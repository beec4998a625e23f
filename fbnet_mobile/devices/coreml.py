"""Core ML: this Mac, or an iPhone or iPad attached to it."""

import sys

from fbnet_mobile.devices.base import TRANSPORTS
from fbnet_mobile.devices.host import HostDevice
from fbnet_mobile.errors import UserError


class CoreMLDevice(HostDevice):
    """``coreml`` for this Mac, or ``coreml:NAME`` for a device attached to it, as Xcode shows its name.

    The runner runs on the Mac either way; coremltools puts the models on the device.
    """

    runtimes = ("coreml",)

    def __init__(self, name: str) -> None:
        if sys.platform != "darwin":
            raise UserError(
                f"{name!r} needs a Mac: Core ML runs on Apple's systems only; run this command there, or export to "
                "another format"
            )
        super().__init__()
        self.name = name
        self.attached = name.partition(":")[2]

    @classmethod
    def present(cls) -> list[str]:
        """This machine, if it is a Mac."""
        return ["coreml"] if sys.platform == "darwin" else []


TRANSPORTS.add("coreml", CoreMLDevice)
