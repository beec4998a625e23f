"""What a Linux or Android system says of itself, read by a shell script that any of them understands."""

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
"""
_CPU_ZONE = re.compile(r"cpu|soc|x86_pkg|tsens", re.IGNORECASE)


def parse_facts(lines: Sequence[str]) -> DeviceFacts:
    """From the output of ``FACTS``."""
    found = fields(lines)
    cpuinfo = dict(_colon(line) for line in found.get("cpuinfo", []))
    board = cpuinfo.get("Model") or first(found, "board")
    chip = cpuinfo.get("model name") or first(found, "chip") or cpuinfo.get("Hardware")
    if chip is None and "CPU part" in cpuinfo:
        chip = f"CPU part {cpuinfo['CPU part']}"
    return DeviceFacts(
        cpu=", ".join(part for part in (board, chip) if part) or UNKNOWN,
        cores=len(found.get("core", [])),
        memory_mb=int(first(found, "memory") or 0) // 1024,
        operating_system=", ".join(found.get("release", []) + found.get("system", [])),
        governor=first(found, "governor") or UNKNOWN,
    )


def fields(lines: Sequence[str]) -> dict[str, list[str]]:
    """Values by the word that each line begins with; without those that are empty."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(" ")
        if value.strip():
            found.setdefault(name, []).append(value.strip())
    return found


def first(found: Mapping[str, Sequence[str]], name: str) -> str | None:
    """The first value of a name, if any."""
    return found[name][0] if found.get(name) else None


def _colon(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip(), value.strip()


def fast_cores(lines: Sequence[str]) -> tuple[int, ...]:
    """The cores of the highest clock; all if the system does not say."""
    clocks = {int(core): int(khz or 0) for core, _, khz in (line.partition(" ") for line in lines)}
    return tuple(sorted(core for core, khz in clocks.items() if khz == max(clocks.values())))


def parse_state(lines: Sequence[str]) -> DeviceState:
    """From the output of ``STATE``."""
    found = fields(lines)
    clocks = [int(khz) / 1000 for khz in found.get("khz", []) if khz.isdigit()]
    ticks = (first(found, "cpu") or "").split()
    load = (first(found, "load") or "").split()
    return DeviceState(
        load_1m=float(load[0]) if load else None,
        governor="+".join(sorted(set(found.get("governor", [])))) or UNKNOWN,
        frequency_mhz=min(clocks, default=None),
        temperature_c=_temperature_c(found),
        steal_s=int(ticks[7]) / 100 if len(ticks) > 7 else None,
        affinity=first(found, "affinity") or UNKNOWN,
    )


def _temperature_c(found: Mapping[str, Sequence[str]]) -> float | None:
    """The hottest of the processor's sensors; else the hottest of all; else, on a phone, the battery's."""
    sensors = []
    for zone in found.get("zone", []):
        kind, _, value = zone.rpartition(" ")
        if re.fullmatch(r"-?\d+", value):
            sensors.append((bool(_CPU_ZONE.search(kind)), int(value) / 1000))
    for line in found.get("thermal", []):
        if line.startswith("Current temperatures"):  # before them: those that were cached, which may be old
            sensors = []
        if match := re.search(r"mValue=(-?[\d.]+), mType=(\d+)", line):
            sensors.append((match[2] == "0", float(match[1])))
    plausible = [(of_cpu, degrees) for of_cpu, degrees in sensors if 0 < degrees < 150]
    best = [degrees for of_cpu, degrees in plausible if of_cpu] or [degrees for _, degrees in plausible]
    if not best and (battery := re.search(r"temperature: (\d+)", first(found, "battery") or "")):
        best = [int(battery[1]) / 10]
    return max(best, default=None)
