"""This machine as a device."""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fbnet_mobile.devices.base import UNKNOWN, Device, DeviceFacts, DeviceState, ProgramError, register_device
from fbnet_mobile.errors import UserError


class HostDevice(Device):
    """The machine that the command runs on. Files are used where they are."""

    def __init__(self, name: str = "host") -> None:
        if name != "host":
            raise UserError(f"unknown device {name!r}; this machine is called 'host'")
        super().__init__(name)

    def facts(self) -> DeviceFacts:
        """Read from the operating system."""
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
        return DeviceFacts(
            cpu=_cpu_model(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            memory_mb=pages // 2**20,
            operating_system=f"{platform.system()} {platform.release()} {platform.machine()}",
            governor=governor.read_text().strip() if governor.exists() else UNKNOWN,
        )

    def state(self) -> DeviceState:
        """Read from the operating system; all of it on Linux, the load alone on others."""
        cpus, thermal = Path("/sys/devices/system/cpu"), Path("/sys/class/thermal")
        governors = sorted(set(_texts(cpus.glob("cpu[0-9]*/cpufreq/scaling_governor"))))
        khz = [float(text) for text in _texts(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))]
        millidegrees = [float(text) for text in _texts(thermal.glob("thermal_zone*/temp"))]
        ticks = next((text.split() for text in _texts([Path("/proc/stat")])), [])
        return DeviceState(
            load_1m=os.getloadavg()[0],
            governor="+".join(governors) or UNKNOWN,
            frequency_mhz=min(khz) / 1e3 if khz else None,
            temperature_c=max(millidegrees) / 1e3 if millidegrees else None,
            steal_s=float(ticks[8]) / os.sysconf("SC_CLK_TCK") if len(ticks) > 8 else None,
            affinity=_ranges(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else UNKNOWN,
        )

    @property
    def python(self) -> str:
        """The Python that runs this."""
        return sys.executable

    def push(self, paths: Sequence[Path]) -> list[str]:
        """The paths themselves, absolute."""
        return [str(path.resolve()) for path in paths]

    def pull(self, remote: str, local: Path) -> None:
        """A copy."""
        shutil.copyfile(remote, local)

    def run(self, argv: Sequence[str]) -> Iterator[str]:
        """As a subprocess; its messages on stderr are shown only if it fails."""
        with tempfile.TemporaryFile("w+", errors="replace") as messages:
            process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=messages, text=True, errors="replace")
            assert process.stdout is not None
            try:
                with process.stdout:
                    yield from (line.rstrip("\n") for line in process.stdout)
            except BaseException:
                process.kill()
                raise
            finally:
                process.wait()
            if process.returncode != 0:
                messages.seek(0)
                last = (messages.read().strip() or "it said nothing").splitlines()[-1]
                code = process.returncode if process.returncode > 0 else 128 - process.returncode
                raise ProgramError(f"{Path(argv[0]).name} on {self.name} ended with code {code}: {last}", code)


def _texts(paths: Iterable[Path]) -> Iterator[str]:
    """The content of those files that can be read; a sensor may be listed and refuse to be read."""
    for path in paths:
        with contextlib.suppress(OSError):
            yield path.read_text().strip()


def _ranges(cores: Iterable[int]) -> str:
    """Numbers as "0-3,6"."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and runs[-1][1] == core - 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in {"model name", "Model"}:
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or UNKNOWN


register_device("host", HostDevice)
