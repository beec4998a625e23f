"""What fbnet-profile says of devices: which are there, and what one of them lacks."""

import shlex
import sys
from collections.abc import Iterator
from typing import Any


def list_devices() -> None:
    """Print this machine, the devices that adb sees and those of devices.yaml, each with what it is and offers."""
    from fbnet_mobile.devices import get_device
    from fbnet_mobile.devices.settings import devices_path
    from fbnet_mobile.errors import FbnetError

    for name in _names():
        try:
            with get_device(name) as device:
                facts, state = device.facts(), device.state()
                offered = ", ".join(f"{runtime} {version}" for runtime, version in _offered(device)) or "none"
        except FbnetError as error:
            print(f"{name}\n  not usable: {error}")
            continue
        load = "unknown" if state.load_1m is None else f"{state.load_1m:.1f}"
        heat = "unknown" if state.temperature_c is None else f"{state.temperature_c:.0f} C"
        print(
            f"{name}\n  {facts.cpu}, {facts.cores} cores, {facts.memory_mb} MB, {facts.operating_system}\n"
            f"  governor {facts.governor}, temperature {heat}, load {load}\n  runtimes: {offered}"
        )
    print(f"\ndevices.yaml: {devices_path() or 'none (docs/devices.md says what it can hold)'}", file=sys.stderr)


def check_device(name: str) -> None:
    """Print what works on a device and what is missing, with the command that mends it.

    Raises:
        UserError: there is no such device.
        JobError: something that is needed is missing.
    """
    from fbnet_mobile.devices import ProgramError, get_device
    from fbnet_mobile.errors import JobError
    from fbnet_mobile.formats.base import format_of_runtime
    from fbnet_mobile.measure.jobs import runtime_version

    problems = 0

    def say(what: str, problem: str = "") -> None:
        nonlocal problems
        problems += bool(problem)
        print(f"{'missing' if problem else 'ok':8} {what}{': ' + problem if problem else ''}")

    with get_device(name) as device:
        facts = device.facts()
        say(f"reachable: {facts.cpu}, {facts.cores} cores, {facts.operating_system}")
        for tool in ("sha256sum", "tar", "find", "xargs", "taskset", "timeout"):
            if name == "host":
                break
            try:
                list(device.run(["sh", "-c", f"command -v {tool}"]))
            except ProgramError:
                needed = tool in {"sha256sum", "find", "xargs"} or tool in _needed_by(device)
                if needed:
                    say(tool, "install it there (Debian: apt install coreutils findutils tar util-linux)")
        working = dict(_offered(device))
        if device.settings.benchmark_binary is not None:
            say(f"benchmark_model: {runtime_version(device, 'litert')}")
        else:
            try:
                python = device.python
                say(f"Python: {next(iter(device.run([python, '--version'])), python)}")
                for runtime in device.runtimes:
                    if runtime in working:
                        say(f"{runtime} {working[runtime]}")
                    else:
                        install = format_of_runtime(runtime).install.removeprefix("python3")
                        say(runtime, f"run there: {shlex.quote(python)}{install}")
            except JobError as error:
                say("Python", str(error))
        state = device.state()
        if facts.governor not in {"performance", "unknown"}:
            print(
                f"note     governor {facts.governor}: clocks vary; as root there: echo performance | tee "
                "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
            )
        if state.load_1m is not None and state.load_1m > 0.5 * max(facts.cores, 1):
            print(f"note     load {state.load_1m:.1f} on {facts.cores} cores: something else is running there")
        if state.temperature_c is not None and state.temperature_c > 70:
            print(f"note     {state.temperature_c:.0f} C: it may slow down; cool_below_c in devices.yaml waits")
        if not working and device.settings.benchmark_binary is None:
            raise JobError(f"{name} cannot measure anything yet; see what is missing above")


def _needed_by(device: Any) -> set[str]:
    needed = {"tar"} if device.settings.transport.startswith("ssh") or device.name.startswith("ssh") else set()
    if device.settings.affinity != "all":
        needed.add("taskset")
    if device.settings.benchmark_binary is not None:
        needed.add("timeout")
    return needed


def _names() -> Iterator[str]:
    from fbnet_mobile.devices.adb import attached_devices
    from fbnet_mobile.devices.settings import device_entries
    from fbnet_mobile.errors import JobError

    yield "host"
    if sys.platform == "darwin":
        yield "coreml"
    entries = device_entries()
    try:
        attached = list(attached_devices())
    except JobError:  # no adb, which only matters to those who have a phone
        attached = []
    known = {entry.transport for entry in entries.values()}
    yield from (f"adb:{serial}" for serial in attached if f"adb:{serial}" not in known)
    yield from entries


def _offered(device: Any) -> Iterator[tuple[str, str]]:
    """The runtimes that work on a device, with their versions."""
    from fbnet_mobile.errors import JobError
    from fbnet_mobile.measure.jobs import runtime_version

    for runtime in device.runtimes:
        try:
            yield runtime, runtime_version(device, runtime)
        except JobError:
            continue
