"""What a Linux or Android system says of itself, read by a shell script that any of them understands."""

import math
import re
from collections.abc import Mapping, Sequence

from fbnet_mobile.devices.base import UNKNOWN, DeviceFacts, DeviceState

# POSIX sh as dash, bash, mksh and busybox speak it, with the tools that coreutils, toybox and busybox share. Each line
# of the output is one word that says what it is, and the value.
FACTS = r"""
echo "system $(uname -srm)"
grep -E '^(model name|Model|Hardware|CPU part)' /proc/cpuinfo | while read -r line; do echo "cpuinfo $line"; done
[ -r /proc/device-tree/model ] && echo "board $(tr -d '\000' </proc/device-tree/model)"
if command -v getprop >/dev/null; then
  echo "board $(getprop ro.product.manufacturer) $(getprop ro.product.model)"
  echo "chip $(getprop ro.soc.manufacturer) $(getprop ro.soc.model)"
  echo "release Android $(getprop ro.build.version.release)"
elif [ -r /etc/os-release ]; then (. /etc/os-release; echo "release $PRETTY_NAME"); fi
grep MemTotal /proc/meminfo | while read -r name kb unit; do echo "memory $kb"; done
for cpu in /sys/devices/system/cpu/cpu[0-9]*; do
  echo "core ${cpu##*cpu} $(cat "$cpu/cpufreq/cpuinfo_max_freq" 2>/dev/null)"
done
echo "governor $(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null)"
:
"""
STATE = r"""
echo "load $(cat /proc/loadavg)"
for file in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do
  [ -r "$file" ] && echo "governor $(cat "$file" 2>/dev/null)"
done
for file in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq; do
  [ -r "$file" ] && echo "khz $(cat "$file" 2>/dev/null)"
done
for zone in /sys/class/thermal/thermal_zone*; do
  [ -r "$zone/temp" ] && echo "zone $(cat "$zone/type" 2>/dev/null) $(cat "$zone/temp" 2>/dev/null)"
done
grep '^cpu ' /proc/stat
grep Cpus_allowed_list /proc/self/status | while read -r name cores; do echo "affinity $cores"; done
if command -v dumpsys >/dev/null; then
  dumpsys thermalservice 2>/dev/null | grep -E 'HAL:|Temperature[{]' | while read -r line; do echo "thermal $line"; done
  echo "battery $(dumpsys battery 2>/dev/null | grep temperature)"
fi
:
"""
_LENGTH = 400
"""How much of a line is read."""
_DEGREES = (1, 150)
_MILLIDEGREES = (1_000, 150_000)
_CPU_ZONE = re.compile(r"cpu|soc|x86_pkg|tsens", re.IGNORECASE)


def parse_facts(lines: Sequence[str]) -> DeviceFacts:
    """From the output of ``FACTS``; what cannot be is unknown."""
    found = fields(lines)
    cpuinfo = dict(_colon(line) for line in found.get("cpuinfo", []))
    board = cpuinfo.get("Model") or first(found, "board")
    chip = cpuinfo.get("model name") or first(found, "chip") or cpuinfo.get("Hardware")
    if chip is None and "CPU part" in cpuinfo:
        chip = f"CPU part {cpuinfo['CPU part']}"
    return DeviceFacts(
        cpu=", ".join(part for part in (board, chip) if part) or UNKNOWN,
        cores=len(found.get("core", [])),
        memory_mb=int(_number(first(found, "memory"), 0, 1e12) or 0) // 1024,
        operating_system=", ".join(found.get("release", [])[:1] + found.get("system", [])[:1]) or UNKNOWN,
        governor=first(found, "governor") or UNKNOWN,
    )


def fields(lines: Sequence[str]) -> dict[str, list[str]]:
    """Values by the word that each line begins with; without those that are empty, and of each what can be printed."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(" ")
        value = "".join(letter for letter in value.replace("\t", " ")[:_LENGTH] if letter.isprintable()).strip()
        if value:
            found.setdefault(name, []).append(value)
    return found


def first(found: Mapping[str, Sequence[str]], name: str) -> str | None:
    """The first value of a name, if any."""
    return found[name][0] if found.get(name) else None


def fast_cores(lines: Sequence[str]) -> tuple[int, ...]:
    """Of cores with their highest clocks those of the highest clock; all if the system does not say."""
    clocks = {}
    for line in lines:
        core, _, khz = line.partition(" ")
        if (number := _number(core, 0, 1023)) is not None:
            clocks[int(number)] = _number(khz, 0, 1e8) or 0.0
    return fastest(clocks)


def fastest(clocks: Mapping[int, float]) -> tuple[int, ...]:
    """The cores of the highest clock."""
    return tuple(sorted(core for core, clock in clocks.items() if clock == max(clocks.values())))


def shell_sleep(seconds: float) -> str:
    """Shell text that waits so long; whole seconds where the device's ``sleep`` takes no fractions."""
    if seconds == 0:
        return ":"
    return f"{{ sleep {seconds:g} 2>/dev/null || sleep {math.ceil(seconds)}; }}"


def parse_state(lines: Sequence[str]) -> DeviceState:
    """From the output of ``STATE``; what cannot be is unknown."""
    found = fields(lines)
    clocks = [khz / 1000 for text in found.get("khz", []) if (khz := _number(text, 1, 1e8)) is not None]
    ticks = _number(_word(first(found, "cpu"), 7), 0, 1e15)
    cores = first(found, "affinity") or UNKNOWN
    return DeviceState(
        load_1m=_number(_word(first(found, "load"), 0), 0, 1e6),
        governor="+".join(sorted(set(found.get("governor", [])))) or UNKNOWN,
        frequency_mhz=min(clocks, default=None),
        temperature_c=_temperature_c(found),
        steal_s=None if ticks is None else ticks / 100,
        affinity=cores if re.fullmatch(r"[\d,-]+", cores, re.ASCII) else UNKNOWN,
    )


def _colon(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def _word(text: str | None, number: int) -> str | None:
    words = (text or "").split()
    return words[number] if number < len(words) else None


def _number(text: str | None, least: float, most: float) -> float | None:
    """The number that a text is; None if it is none, or cannot be of what it is said to be."""
    if text is None or not re.fullmatch(r"-?\d{1,20}(\.\d{1,20})?", text, re.ASCII):
        return None
    return float(text) if least <= float(text) <= most else None


def _temperature_c(found: Mapping[str, Sequence[str]]) -> float | None:
    """The hottest of the processor's sensors; else the hottest of all; else, on a phone, the battery's."""
    sensors: list[tuple[bool, float | None]] = []
    for zone in found.get("zone", []):
        kind, _, value = zone.rpartition(" ")
        sensors.append((bool(_CPU_ZONE.search(kind)), _number(value, *_MILLIDEGREES)))
    sensors = [(of_cpu, None if value is None else value / 1000) for of_cpu, value in sensors]
    for line in found.get("thermal", []):
        if line.startswith("Current temperatures"):  # before them: those that were cached, which may be old
            sensors = []
        if match := re.search(r"mValue=([^,]+), mType=(\d+)", line):
            sensors.append((match[2] == "0", _number(match[1], *_DEGREES)))
    plausible = [(of_cpu, degrees) for of_cpu, degrees in sensors if degrees is not None]
    best = [degrees for of_cpu, degrees in plausible if of_cpu] or [degrees for _, degrees in plausible]
    if not best and (battery := re.search(r"temperature: (\d{1,4})\b", first(found, "battery") or "", re.ASCII)):
        best = [int(battery[1]) / 10]
    return max(best, default=None)
