"""This machine as a device."""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
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
