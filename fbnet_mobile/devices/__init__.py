"""Devices: where a model file is measured, and how files and commands get there."""

from fbnet_mobile.devices.adb import AdbDevice
from fbnet_mobile.devices.base import (
    TRANSPORTS,
    Device,
    DeviceBusyError,
    DeviceFacts,
    DeviceFullError,
    DeviceLostError,
    DeviceState,
    ProgramError,
    get_device,
)
from fbnet_mobile.devices.coreml import CoreMLDevice
from fbnet_mobile.devices.host import HostDevice
from fbnet_mobile.devices.remote import RemoteDevice
from fbnet_mobile.devices.settings import DeviceSettings
from fbnet_mobile.devices.ssh import SshDevice

__all__ = [
    "TRANSPORTS",
    "AdbDevice",
    "CoreMLDevice",
    "Device",
    "DeviceBusyError",
    "DeviceFacts",
    "DeviceFullError",
    "DeviceLostError",
    "DeviceSettings",
    "DeviceState",
    "HostDevice",
    "ProgramError",
    "RemoteDevice",
    "SshDevice",
    "get_device",
]
