"""Where model files are measured, as plain data."""

from dataclasses import dataclass
from pathlib import Path

from fbnet_mobile.engine.recipe import option

DEVICE = "Device"
"""Heading of these options."""


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How a device runs files."""

    threads: int | None = option(
        None, group=DEVICE, low=1, high=1024, shown="as devices.yaml says, or 1", help="Threads of the runtime."
    )
    benchmark_binary: Path | None = option(
        None,
        group=DEVICE,
        shown="none",
        help="Google's benchmark_model for the device, for Android without Python.",
    )


@dataclass(frozen=True, kw_only=True)
class DeviceOptions(RuntimeOptions):
    """A device, and how it runs files."""

    device: str = option(
        "host",
        group=DEVICE,
        help="Where to measure: host is this machine; ssh:user@board, adb, coreml, or a name of devices.yaml.",
    )
