"""What fbnet-profile says of devices: which are there, and what one of them lacks."""

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fbnet_mobile.remarks import say
from fbnet_mobile.report.records import DeviceCheck, DeviceFound, DeviceList, Finding

if TYPE_CHECKING:
    from fbnet_mobile.devices import Device


def list_devices() -> DeviceList:
    """What each transport sees, this machine first, and those of devices.yaml, each with what it is and offers."""
    from fbnet_mobile.devices.settings import devices_path

    found = DeviceList(tuple(_found(name) for name in _names()), devices_path())
    say(f"devices.yaml: {found.settings or 'none (docs/devices.md says what it can hold)'}")
    return found


def _found(name: str) -> DeviceFound:
    from fbnet_mobile.devices import get_device
    from fbnet_mobile.errors import FbnetError

    facts = state = None
    try:
        with get_device(name) as device:
            facts, state = device.facts(), device.state()
            return DeviceFound(name, facts, state, dict(_offered(device)), "")
    except FbnetError as error:
        return DeviceFound(name, facts, state, {}, str(error))


def check_device(name: str) -> DeviceCheck:
    """What works on a device and what is missing, with the command that mends it.

    Raises:
        UserError: there is no such device.
        JobError: it cannot be reached.
    """
    from fbnet_mobile.devices import ProgramError, get_device
    from fbnet_mobile.errors import JobError
    from fbnet_mobile.formats.base import get_runtime
    from fbnet_mobile.measure.jobs import runtime_version

    findings: list[Finding] = []

    def found(what: str, problem: str = "") -> None:
        findings.append(Finding(what, problem))

    with get_device(name) as device:
        facts = device.facts()
        found(f"reachable: {facts.cpu}, {facts.cores} cores, {facts.operating_system}")
        for tool in _needed_by(device):
            try:
                list(device.run(["sh", "-c", f"command -v {tool}"]))
            except ProgramError:
                found(tool, "install it there (Debian: apt install coreutils findutils tar util-linux)")
        working = dict(_offered(device))
        if device.settings.benchmark_binary is not None:
            found(f"benchmark_model: {runtime_version(device, 'litert')}")
        else:
            try:
                python = device.python
                found(f"Python: {next(iter(device.run([python, '--version'])), python)}")
                for runtime in device.runtimes:
                    if runtime in working:
                        found(f"{runtime} {working[runtime]}")
                    else:
                        install = get_runtime(runtime).install.removeprefix("python3")
                        found(runtime, f"run there: {shlex.quote(python)}{install}")
            except JobError as error:
                found("Python", str(error))
        usable = bool(working) or device.settings.benchmark_binary is not None
        return DeviceCheck(name, tuple(findings), tuple(_notes(device)), usable)


def _notes(device: "Device") -> Iterator[str]:
    """What makes a device's measurements uncertain."""
    facts, state = device.facts(), device.state()
    if facts.governor not in {"performance", "unknown"}:
        yield (
            f"governor {facts.governor}: clocks vary; as root there: echo performance | tee "
            "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
        )
    if state.load_1m is not None and state.load_1m > 0.5 * max(facts.cores, 1):
        yield f"load {state.load_1m:.1f} on {facts.cores} cores: something else is running there"
    if state.temperature_c is not None and state.temperature_c > 70:
        yield f"{state.temperature_c:.0f} C: it may slow down; cool_below_c in devices.yaml waits"


def _needed_by(device: "Device") -> list[str]:
    """Programs that a device must have besides a shell's own."""
    needed = list(device.tools)
    if device.tools and device.settings.affinity != "all":
        needed.append("taskset")
    if device.settings.benchmark_binary is not None:
        needed.append("timeout")
    return needed


def _names() -> Iterator[str]:
    from fbnet_mobile.devices import TRANSPORTS
    from fbnet_mobile.devices.base import named_devices

    entries = named_devices()
    known = {entry.transport for entry in entries.values()} - {"host"}
    seen = [name for transport in TRANSPORTS for name in TRANSPORTS.get(transport).present() if name not in known]
    yield from sorted(seen, key=lambda name: name != "host")
    yield from entries


def _offered(device: "Device") -> Iterator[tuple[str, str]]:
    """The runtimes that work on a device, with their versions."""
    from fbnet_mobile.devices import DeviceBusyError
    from fbnet_mobile.errors import JobError
    from fbnet_mobile.measure.jobs import runtime_version

    for runtime in device.runtimes:
        try:
            yield runtime, runtime_version(device, runtime)
        except DeviceBusyError:  # which says nothing of what there is
            raise
        except JobError:
            continue
