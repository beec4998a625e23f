"""This machine as a device."""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fbnet_mobile.devices.base import TRANSPORTS, UNKNOWN, Device, DeviceFacts, DeviceState, ProgramError
from fbnet_mobile.devices.lock import HostLock
from fbnet_mobile.devices.output import OUTPUT_BYTES, EndlessError, LastWords, read_lines
from fbnet_mobile.devices.settings import ranges
from fbnet_mobile.devices.system import fastest
from fbnet_mobile.errors import JobError, UserError

_CPUS = Path("/sys/devices/system/cpu")


class HostDevice(Device):
    """The machine that the command runs on. Files are used where they are."""

    def __init__(self, name: str = "host") -> None:
        if name != "host":
            raise UserError(f"unknown device {name!r}; this machine is called 'host'")
        super().__init__(name)
        self._lock: HostLock | None = None

    @classmethod
    def present(cls) -> list[str]:
        """This machine."""
        return ["host"]

    def facts(self) -> DeviceFacts:
        """Read from the operating system."""
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        return DeviceFacts(
            cpu=_cpu_model(),
            cores=len(_allowed()) or os.cpu_count() or 1,
            memory_mb=pages // 2**20,
            operating_system=f"{platform.system()} {platform.release()} {platform.machine()}",
            governor=next(_texts([_CPUS / "cpu0/cpufreq/scaling_governor"]), UNKNOWN),
        )

    def state(self) -> DeviceState:
        """Read from the operating system; all of it on Linux, the load alone on others."""
        governors = sorted(set(_texts(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor"))))
        khz = _numbers(_CPUS.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        millidegrees = _numbers(Path("/sys/class/thermal").glob("thermal_zone*/temp"))
        ticks = next((text.split() for text in _texts([Path("/proc/stat")])), [])
        return DeviceState(
            load_1m=os.getloadavg()[0],
            governor="+".join(governors) or UNKNOWN,
            frequency_mhz=min(khz) / 1e3 if khz else None,
            temperature_c=max(millidegrees) / 1e3 if millidegrees else None,
            steal_s=float(ticks[8]) / os.sysconf("SC_CLK_TCK") if len(ticks) > 8 else None,
            affinity=ranges(self._cores() or _allowed()) or UNKNOWN,
        )

    @property
    def python(self) -> str:
        """The one of devices.yaml, or the Python that runs this."""
        return str(Path(self.settings.python).expanduser()) if self.settings.python else sys.executable

    def push(self, paths: Sequence[Path]) -> list[str]:
        """The paths themselves, absolute."""
        return [str(path.resolve()) for path in paths]

    def pull(self, remote: str, local: Path) -> None:
        """A copy."""
        shutil.copyfile(remote, local)

    def run(self, argv: Sequence[str]) -> Iterator[str]:
        """As a subprocess on the cores that the settings choose; its messages on stderr are shown only if it fails."""
        program = Path(argv[0]).name
        self._lock = self._lock or HostLock.take()
        with self._on_cores():
            try:
                process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            except OSError as error:
                raise ProgramError(f"cannot start {argv[0]} on {self.name}: {error.strerror}", 127) from error
        assert process.stdout is not None
        messages = LastWords(process)
        try:
            with process.stdout:
                yield from read_lines(process)
        except EndlessError:
            process.kill()
            raise ProgramError(f"{program} on {self.name} printed more than {OUTPUT_BYTES >> 20} MB", 1) from None
        except BaseException:
            process.kill()
            raise
        finally:
            process.wait()
        if process.returncode != 0:
            last = (messages.lines() or ["it said nothing"])[-1]
            code = process.returncode if process.returncode > 0 else 128 - process.returncode
            raise ProgramError(f"{program} on {self.name} ended with code {code}: {last}", code)

    def close(self) -> None:
        """Let others measure here."""
        self._lock = None

    def _cores(self) -> tuple[int, ...]:
        clocks = {
            int(folder.name.removeprefix("cpu")): khz[0]
            for folder in _CPUS.glob("cpu[0-9]*")
            if (khz := _numbers([folder / "cpufreq/cpuinfo_max_freq"]))
        }
        return self.settings.cores(fastest({core: khz for core, khz in clocks.items() if core in _allowed()}))

    @contextlib.contextmanager
    def _on_cores(self) -> Iterator[None]:
        """Within, this thread runs on the cores that the settings choose, and what it starts stays there."""
        cores, before = self._cores(), _allowed()
        if not cores:
            yield
            return
        if absent := set(cores) - set(before):
            raise JobError(
                f"{self.name} has the cores {ranges(before) or UNKNOWN}, not {ranges(tuple(absent))}; mend affinity "
                f"({self.settings.affinity}) in devices.yaml"
            )
        os.sched_setaffinity(0, cores)
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)


def _allowed() -> tuple[int, ...]:
    """The cores that this process may use; none where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def _texts(paths: Iterable[Path]) -> Iterator[str]:
    """The content of those files that can be read; a sensor may be listed and refuse to be read."""
    for path in paths:
        with contextlib.suppress(OSError):
            yield path.read_text().strip()


def _numbers(paths: Iterable[Path]) -> list[float]:
    return [float(text) for text in _texts(paths) if text.lstrip("-").isdecimal()]


def _cpu_model() -> str:
    for text in _texts([Path("/proc/cpuinfo")]):
        for line in text.splitlines():
            name, _, value = line.partition(":")
            if name.strip() in {"model name", "Model"}:
                return value.strip()
    return platform.processor() or platform.machine() or UNKNOWN


TRANSPORTS.add("host", HostDevice)
