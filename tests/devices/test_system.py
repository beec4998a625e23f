"""What systems say of themselves, in the form published for boards and phones that are not here."""

from fbnet_mobile.devices.base import UNKNOWN, DeviceState
from fbnet_mobile.devices.system import fast_cores, parse_facts, parse_state

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
