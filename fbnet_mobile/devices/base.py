"""The contract of a device, and the registry of kinds of devices."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from fbnet_mobile.devices.settings import DeviceSettings, device_entries
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.formats.base import FORMATS

UNKNOWN = "unknown"
"""What a fact says when the system does not."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a device says of itself; ``"unknown"`` where it does not."""

    cpu: str
    cores: int
    memory_mb: int
    operating_system: str
    governor: str = UNKNOWN


@dataclass(frozen=True)
class DeviceState:
    """What may disturb a measurement at one moment; None or ``"unknown"`` where the system does not say.

    Attributes:
        load_1m: processes that ran or wanted to, averaged over one minute.
        governor: that chooses the processor's frequency; several are joined by a plus.
        frequency_mhz: of the slowest core now.
        temperature_c: of the hottest sensor.
        steal_s: seconds since the start in which a virtual machine's processors were given to others.
        affinity: numbers of the cores that programs may run on, as "0-3,6".
    """

    load_1m: float | None
    governor: str
    frequency_mhz: float | None
    temperature_c: float | None
    steal_s: float | None
    affinity: str


class DeviceLostError(JobError):
    """The connection broke or the device stopped answering; it may come back."""


class DeviceFullError(JobError):
    """There is no space left on the device."""


class ProgramError(JobError):
    """A program ran on the device and failed; ``code`` is its exit code, as a shell gives it (128 + signal)."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Device(ABC):
    """A machine that files can be put on and programs run on. Use as a context manager: leaving it cleans up there.

    All methods raise ``JobError`` when the device cannot be reached or an operation on it fails;
    ``DeviceLostError`` if it may come back, after which :meth:`reconnect` is to be called before anything else.
    """

    settings: DeviceSettings = DeviceSettings()
    """What the user's devices.yaml says of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What can be timed on it, if it is installed there; the first is the default."""
        return tuple(entry.runtime for entry in FORMATS.values() if entry.anywhere)

    @abstractmethod
    def facts(self) -> DeviceFacts:
        """The device's processor, memory and system."""

    @abstractmethod
    def state(self) -> DeviceState:
        """What the device is doing now besides, which is recorded around each round of measuring."""

    @property
    @abstractmethod
    def python(self) -> str:
        """The command that starts Python on the device."""

    @abstractmethod
    def push(self, paths: Sequence[Path]) -> list[str]:
        """Make local files available on the device; their paths there, in the same order."""

    @abstractmethod
    def pull(self, remote: str, local: Path) -> None:
        """Copy one file from the device."""

    @abstractmethod
    def run(self, argv: Sequence[str]) -> Iterator[str]:
        """Run a program and give its output line by line as it comes; raises ``ProgramError`` if it fails."""

    def reconnect(self) -> None:  # noqa: B027  # this machine does not go away
        """Make a new connection after the old one was lost."""

    def clean(self) -> None:  # noqa: B027  # a device on which nothing is put has nothing to remove
        """Remove what was put on the device."""

    def close(self) -> None:
        """Remove what was put on the device and end the connection."""
        self.clean()

    def use(self, **settings: object) -> None:
        """Change settings of devices.yaml for this run; those that are None stay."""
        self.settings = self.settings.model_copy(update={k: v for k, v in settings.items() if v is not None})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_KINDS: dict[str, Callable[[str], Device]] = {}


def register_device(kind: str, make: Callable[[str], Device]) -> None:
    """Make ``kind`` or ``kind:ADDRESS`` a device name; ``make`` gets the whole name."""
    _KINDS[kind] = make


def get_device(name: str) -> Device:
    """The device of a name: ``host``, ``ssh:...``, ``adb...``, ``coreml...``, or an entry of the user's devices.yaml.

    Raises:
        UserError: there is no such device; the message lists the known ones.
    """
    if name.split(":", 1)[0] in _KINDS:
        return _KINDS[name.split(":", 1)[0]](name)
    entries = device_entries()
    if name not in entries:
        raise UserError(f"unknown device {name!r}; known devices: {', '.join(sorted({*_KINDS, *entries}))}")
    transport = entries[name].transport
    if transport.split(":", 1)[0] not in _KINDS:
        raise UserError(f"device {name!r}: unknown transport {transport!r}; choose one of {', '.join(sorted(_KINDS))}")
    device = _KINDS[transport.split(":", 1)[0]](transport)
    device.name, device.settings = name, entries[name]
    return device
