"""Devices: where a model file is measured, and how files and commands get there."""

from fbnet_mobile.devices.base import Device, DeviceFacts, DeviceState, get_device, register_device
from fbnet_mobile.devices.host import HostDevice

__all__ = ["Device", "DeviceFacts", "DeviceState", "HostDevice", "get_device", "register_device"]
