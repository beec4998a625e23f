"""The contract of a device, and the registry of transports: the ways in which devices are reached."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from fbnet_mobile.devices.settings import DeviceSettings, device_entries, devices_path
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.formats.base import all_runtimes
from fbnet_mobile.registry import Registry, unknown

UNKNOWN = "unknown"
"""What a fact says when the system does not."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a device says of itself; ``"unknown"`` and 0 where it does not.

    Attributes:
        cpu: the board or phone, and its chip.
        cores: how many.
        memory_mb: in MiB.
        operating_system: name, release and architecture.
        governor: that chooses the first core's frequency.
    """

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
        affinity: numbers of the cores on which models run, as "0-3,6".
    """

    load_1m: float | None
    governor: str
    frequency_mhz: float | None
    temperature_c: float | None
    steal_s: float | None
    affinity: str


class DeviceLostError(JobError):
    """The connection broke or the device stopped answering; it may come back."""


class DeviceBusyError(JobError):
    """Another job uses the device; the message says whose."""


class DeviceFullError(JobError):
    """There is no space left on the device."""


class ProgramError(JobError):
    """A program ran on the device and failed.

    Attributes:
        code: its exit code, as a shell gives it (128 + signal).
        said: the last line of its messages.
    """

    def __init__(self, message: str, code: int, said: str = "") -> None:
        super().__init__(message)
        self.code, self.said = code, said


class Device(ABC):
    """A machine that files can be put on and programs run on. Use as a context manager: leaving it cleans up there.

    All methods raise ``JobError`` when the device cannot be reached or an operation on it fails;
    ``DeviceLostError`` if it may come back, after which :meth:`reconnect` is to be called before anything else.
    The first :meth:`push` or :meth:`run` takes the device for this job, until :meth:`close`; they raise
    ``DeviceBusyError`` if another one has it. :meth:`facts` and :meth:`state` do not disturb that one.
    """

    tools: ClassVar[tuple[str, ...]] = ()
    """Programs that must be there besides a shell's own."""

    settings: DeviceSettings = DeviceSettings()
    """What the user's devices.yaml says of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def present(cls) -> list[str]:
        """Names of this transport's devices that can be seen from here; none where that cannot be known."""
        return []

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What can be timed on it, if it is installed there; the first is the default."""
        return tuple(name for name, entry in all_runtimes().items() if entry.anywhere)

    @abstractmethod
    def facts(self) -> DeviceFacts:
        """The device's processor, memory and system."""

    @abstractmethod
    def state(self) -> DeviceState:
        """What the device is doing now besides, which is recorded around each round of measuring.

        Raises:
            DeviceLostError: it cannot be asked; nothing else, and what it does not say is unknown.
        """

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


TRANSPORTS: Registry[type[Device]] = Registry("device transport")
"""Classes by what their devices' names begin with; each gets the whole name."""


def get_device(name: str) -> Device:
    """The device of a name: ``host``, ``ssh:...``, ``adb...``, ``coreml...``, or an entry of the user's devices.yaml.

    Raises:
        UserError: there is no such device; the message lists the known ones.
    """
    entries = named_devices()
    if name in entries:
        settings = entries[name]
        try:
            device = _transport(settings.transport)(settings.transport)
        except UserError as error:
            raise UserError(f"device {name!r}: {error}") from error
        device.name, device.settings = name, settings
        return device
    if name.partition(":")[0] not in TRANSPORTS:
        raise UserError(unknown("device", name, sorted({*TRANSPORTS, *entries})))
    return _transport(name)(name)


def named_devices() -> dict[str, DeviceSettings]:
    """The user's devices by name.

    Raises:
        UserError: devices.yaml is wrong, or gives a device the name of a transport, which would be ambiguous.
    """
    entries = device_entries()
    for name in entries:
        if name.partition(":")[0] in TRANSPORTS:
            raise UserError(f"{devices_path()}: {name}: that is the name of a transport; give the device another name")
    return entries


def _transport(name: str) -> type[Device]:
    return TRANSPORTS.get(name.partition(":")[0])
