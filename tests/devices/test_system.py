"""What systems say of themselves, in the form published for boards and phones that are not here."""

import random
import subprocess
from pathlib import Path

from fbnet_mobile.devices.base import UNKNOWN, DeviceState
from fbnet_mobile.devices.system import fast_cores, parse_facts, parse_state, shell_sleep

RASPBERRY_PI_4 = """system Linux 6.6.31+rpt-rpi-v8 aarch64
cpuinfo CPU part	: 0xd08
cpuinfo CPU part	: 0xd08
cpuinfo Model		: Raspberry Pi 4 Model B Rev 1.4
board Raspberry Pi 4 Model B Rev 1.4
release Debian GNU/Linux 12 (bookworm)
memory 3884000
core 0 1800000
core 1 1800000
governor ondemand"""

PIXEL_8 = """system Linux 5.15.137-android14-11 aarch64
cpuinfo CPU part	: 0xd46
board Google Pixel 8
chip Google Tensor G3
release Android 14
memory 7654321
core 0 1704000
core 4 2367000
core 8 2914000
governor sched_pixel"""

PIXEL_8_STATE = """load 3.20 3.11 2.98 4/5012 12345
governor sched_pixel
governor sched_pixel
khz 738000
khz 2914000
cpu  1000 20 300 40000 50 6 7 8 0 0
affinity 0-8
thermal Thermal HAL 2.0 connected: yes
thermal Temperature{mValue=63.4, mType=0, mName=BIG, mStatus=0}
thermal Current temperatures from HAL:
thermal Temperature{mValue=39.1, mType=0, mName=BIG, mStatus=0}
thermal Temperature{mValue=47.5, mType=2, mName=battery, mStatus=0}
thermal Current cooling devices from HAL:
battery   temperature: 312"""


def test_boards_and_phones_are_named() -> None:
    board = parse_facts(RASPBERRY_PI_4.splitlines())
    assert board.cpu == "Raspberry Pi 4 Model B Rev 1.4, CPU part 0xd08"
    assert (board.cores, board.memory_mb, board.governor) == (2, 3792, "ondemand")
    assert board.operating_system == "Debian GNU/Linux 12 (bookworm), Linux 6.6.31+rpt-rpi-v8 aarch64"
    phone = parse_facts(PIXEL_8.splitlines())
    assert phone.cpu == "Google Pixel 8, Google Tensor G3"
    assert phone.operating_system.startswith("Android 14, ")
    lines = [line.removeprefix("core ") for line in PIXEL_8.splitlines() if line.startswith("core ")]
    assert fast_cores(lines) == (8,)
    assert fast_cores(["0", "1"]) == (0, 1)


def test_the_state_of_a_phone_a_board_and_of_one_that_says_nothing() -> None:
    phone = parse_state(PIXEL_8_STATE.splitlines())
    assert phone == DeviceState(3.2, "sched_pixel", 738.0, 39.1, 0.08, "0-8")
    without_hal = [line for line in PIXEL_8_STATE.splitlines() if not line.startswith("thermal")]
    assert parse_state(without_hal).temperature_c == 31.2
    board = parse_state(["zone cpu-thermal 48312", "zone nvme 61000", "zone broken -274000"])
    assert board.temperature_c == 48.312
    assert parse_state([]) == DeviceState(None, UNKNOWN, None, None, None, UNKNOWN)


def test_nonsense_is_unknown() -> None:
    lines = """load 1e400 x
khz 9999999999999999999999999999999999
khz \u00b2
khz -5
zone cpu 1e309
zone cpu 999999
affinity 0;1
cpu x x x x x x x x x
thermal Temperature{mValue=1.2.3, mType=0}
governor a\x1b[31mb
battery temperature: x""".splitlines()
    assert parse_state(lines) == DeviceState(None, "a[31mb", None, None, None, UNKNOWN)
    facts = parse_facts(["memory 1e999", "memory 12", "system " + "s" * 5000, "core x", "cpuinfo"])
    assert (facts.cpu, facts.memory_mb, len(facts.operating_system)) == (UNKNOWN, 0, 400)
    assert fast_cores(["x 1", "0 \u00b2", "1 5", "99999999999 9"]) == (1,)


def test_no_output_of_a_device_is_too_odd() -> None:
    draw, odd = random.Random(0), ["", "\n", "9" * 400, "\x00", "\u0663", "-", ".", "e", " ", "{"]
    text = "\n".join((RASPBERRY_PI_4, PIXEL_8, PIXEL_8_STATE))
    for _ in range(2000):
        letters = list(text)
        for _ in range(draw.randint(1, 40)):
            letters[draw.randrange(len(letters))] = draw.choice(odd)
        lines = "".join(letters).split("\n")
        state, facts = parse_state(lines), parse_facts(lines)
        fast_cores([line.removeprefix("core ") for line in lines])
        assert state.temperature_c is None or 0 <= state.temperature_c <= 1000
        assert state.load_1m is None or 0 <= state.load_1m <= 1e6
        assert 0 <= facts.memory_mb <= 1e9
        assert facts.cpu.isprintable()
        assert facts.operating_system.isprintable()


def test_a_sleep_that_takes_no_fractions(tmp_path: Path) -> None:
    (tmp_path / "sleep").write_text(f"#!/bin/sh\ncase $1 in *.*) exit 1;; esac\necho $1 >>{tmp_path}/slept\n")
    (tmp_path / "sleep").chmod(0o755)
    for seconds in (0, 0.3, 2, 1.5):
        subprocess.run(["/bin/sh", "-c", shell_sleep(seconds)], env={"PATH": str(tmp_path)}, check=True)
    assert (tmp_path / "slept").read_text().split() == ["1", "2", "2"]
