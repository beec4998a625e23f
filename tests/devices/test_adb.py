"""Against Android's own daemon: in this machine's root, and in one whose userland is Android's shell and tools.

``tools/device_lab.sh`` builds them; ``make test-devices`` runs these in namespaces of their own.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from fbnet_mobile.devices import AdbDevice, DeviceFullError, DeviceSettings, HostDevice, ProgramError
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.measure.jobs import Failure, run_models, runtime_version
from fbnet_mobile.measure.plan import MeasuringPlan
from tests.devices import lab

pytestmark = pytest.mark.devices

Record = Callable[[str, object], None]
PLAN = MeasuringPlan(warmup_ms=0, min_ms=0.1)
NASTY = ("a; touch hit", "$(touch hit)", "`touch hit`", "it's", 'say "hi"', "-rf", "a\nb", "ü")


@pytest.fixture(scope="session", autouse=True)
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with lab.adb_server(tmp_path_factory.mktemp("adb")):
        yield


@pytest.fixture
def adbd() -> Iterator[lab.Adbd]:
    daemon = lab.Adbd(5601, None, os.environ)
    yield daemon
    daemon.stop()


@pytest.fixture
def phone(adbd: lab.Adbd, tmp_path: Path) -> Iterator[AdbDevice]:
    """Android's daemon, but this machine's programs, Python among them."""
    with AdbDevice(f"adb:{adbd.serial}") as device:
        device.name = "phone"
        device.settings = DeviceSettings(python=sys.executable, folder=str(tmp_path / "phone"), reconnect_s=30)
        yield device
    assert not list((tmp_path / "phone").rglob("*"))


@pytest.fixture
def android(tmp_path: Path) -> Iterator[AdbDevice]:
    """Android's daemon, shell and tools; no Python."""
    daemon = lab.Adbd(5602, lab.CACHE / "android", {"PATH": "/system/bin:/data/standins"})
    with AdbDevice(f"adb:{daemon.serial}") as device:
        device.name = "android"
        yield device
    daemon.stop()


@pytest.fixture
def standins() -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Puts programs that Android has and we have not onto the android device, as scripts."""
    folder = lab.CACHE / "android" / "data" / "standins"
    folder.mkdir(exist_ok=True)

    def add(programs: Mapping[str, str]) -> None:
        for name, text in programs.items():
            (folder / name).write_text("#!/system/bin/sh\n" + text)
            (folder / name).chmod(0o755)

    yield add
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture
def reconnections(monkeypatch: pytest.MonkeyPatch) -> list[AdbDevice]:
    made: list[AdbDevice] = []
    again = AdbDevice.reconnect
    monkeypatch.setattr(AdbDevice, "reconnect", lambda self: (made.append(self), again(self)))
    return made


def test_programs_run_and_their_end_is_told(phone: AdbDevice) -> None:
    assert list(phone.run(["printf", "a b\\n\\nc"])) == ["a b", "", "c"]
    with pytest.raises(ProgramError, match="sh on phone ended with code 7: why"):
        list(phone.run(["sh", "-c", "echo why >&2; exit 7"]))


@pytest.mark.parametrize("nasty", NASTY)
def test_a_name_cannot_run_anything_in_android_s_shell(android: AdbDevice, nasty: str, tmp_path: Path) -> None:
    path = tmp_path / f"{nasty}.tfl;ite"
    path.write_text(nasty)
    (remote,) = android.push([path])
    assert list(android.run(["cat", remote])) == nasty.split("\n")
    assert list(android.run(["printf", "%s\\n", nasty])) == nasty.split("\n")
    android.pull(remote, tmp_path / "back")
    assert (tmp_path / "back").read_text() == nasty
    assert not list((lab.CACHE / "android").glob("*/hit")) + list((lab.CACHE / "android").glob("hit"))
    with pytest.raises((UserError, JobError), match=r"is no device; write adb, or adb:SERIAL|is not attached"):
        AdbDevice(f"adb:{nasty};").facts()


def test_many_files_go_at_once_and_are_removed(android: AdbDevice, tmp_path: Path) -> None:
    paths = []
    for number in range(2000):
        paths.append(tmp_path / f"{number}.tflite")
        paths[-1].write_bytes(number.to_bytes(4, "big") * 100)
    remote = android.push(paths)
    root = lab.CACHE / "android"
    assert (root / remote[1234][1:]).read_bytes() == paths[1234].read_bytes()
    (root / remote[1234][1:]).write_bytes(b"cut")
    android.reconnect()
    android.push(paths)
    assert (root / remote[1234][1:]).read_bytes() == paths[1234].read_bytes()
    android.close()
    assert not list((root / "data/local/tmp").iterdir())


def test_of_two_devices_one_must_be_chosen(phone: AdbDevice, android: AdbDevice, record_property: Record) -> None:
    with pytest.raises(UserError, match=r"2 Android devices are attached; choose one of adb:127.0.0.1:560\d, adb:127"):
        AdbDevice("adb").facts()
    with pytest.raises(UserError, match="choose one of"):
        list(AdbDevice("adb").run(["true"]))
    with pytest.raises(JobError, match=r"adb:nowhere is not attached; see that `adb devices` lists it"):
        AdbDevice("adb:nowhere").facts()
    record_property("faults", 1)


def test_the_runner_measures_as_on_this_machine(phone: AdbDevice, models: list[Path]) -> None:
    assert runtime_version(phone, "litert") == runtime_version(HostDevice(), "litert")
    samples = dict(run_models(phone, "litert", 1, models, PLAN))
    assert list(samples) == [0, 1, 2]
    assert all(sample.min_us > 0 for sample in samples.values())
    assert phone.facts().cpu == HostDevice().facts().cpu


def test_a_daemon_or_server_killed_in_mid_block_or_a_phone_restarted(
    adbd: lab.Adbd,
    phone: AdbDevice,
    models: list[Path],
    reconnections: list[AdbDevice],
    record_property: Record,
    tmp_path: Path,
) -> None:
    phone.settings = phone.settings.model_copy(update={"pause_s": 0.5})
    done = []
    for number, sample in run_models(phone, "litert", 1, models * 4, PLAN):
        assert not isinstance(sample, Failure)
        done.append(number)
        before = len(reconnections)
        if number == 1:
            adbd.kill()
            threading.Timer(1, adbd.start).start()
        if number == 4:
            subprocess.run(["adb", "kill-server"], check=True, capture_output=True)
        if number == 7:
            assert before >= 2
            adbd.kill()
            for path in (tmp_path / "phone").rglob("*.tflite"):
                path.unlink()
            threading.Timer(3, adbd.start).start()
    assert done == list(range(12))
    assert len(reconnections) >= 3
    record_property("faults", 3)


def test_a_phone_that_freezes_is_given_up_and_taken_back(
    adbd: lab.Adbd,
    phone: AdbDevice,
    models: list[Path],
    reconnections: list[AdbDevice],
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    monkeypatch.setattr(AdbDevice, "grace_s", 0.0)
    phone.settings = phone.settings.model_copy(update={"pause_s": 0.5, "model_limit_s": 6, "reconnect_s": 90})
    done = []
    for number, sample in run_models(phone, "litert", 1, models * 2, PLAN):
        assert not isinstance(sample, Failure)
        done.append(number)
        if number == 2:
            adbd.signal(signal.SIGSTOP)
            threading.Timer(9, adbd.signal, [signal.SIGCONT]).start()
    assert done == list(range(6))
    assert reconnections
    record_property("faults", 1)


def test_a_phone_that_stays_away_ends_the_job(
    adbd: lab.Adbd, phone: AdbDevice, models: list[Path], record_property: Record
) -> None:
    phone.settings = phone.settings.model_copy(update={"pause_s": 0.5, "reconnect_s": 2})
    run = run_models(phone, "litert", 1, models * 3, PLAN)
    next(run)
    adbd.kill()
    try:
        with pytest.raises(JobError, match=r"phone was lost .* does not come back: .* run the same command again"):
            list(run)
    finally:
        adbd.start()
        phone.reconnect()
    record_property("faults", 1)


def test_a_full_phone(android: AdbDevice, tmp_path: Path, record_property: Record) -> None:
    disk = lab.CACHE / "android" / "data" / "disk"
    disk.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)], check=True)
    try:
        android.settings = DeviceSettings(folder="/data/disk")
        (tmp_path / "huge").write_bytes(bytes(300_000))
        with pytest.raises(DeviceFullError, match="android is full"):
            android.push([tmp_path / "huge"])
        android.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    record_property("faults", 1)


# In the form in which Android's documentation and published reports show what these say; not recorded from a phone.
GETPROP = """case $1 in
ro.product.manufacturer) echo Google;; ro.product.model) echo "Pixel 8";; ro.soc.manufacturer) echo Google;;
ro.soc.model) echo "Tensor G3";; ro.build.version.release) echo 14;;
esac
"""
DUMPSYS = """case $1 in
battery) echo "Current Battery Service state:"; echo "  level: 81"; echo "  temperature: 312";;
thermalservice) cat <<'END'
IsStatusOverride: false
Thermal Status: 0
Cached temperatures:
	Temperature{mValue=63.4, mType=0, mName=BIG, mStatus=0}
HAL Ready: true
Current temperatures from HAL:
	Temperature{mValue=39.1, mType=0, mName=BIG, mStatus=0}
	Temperature{mValue=41.5, mType=1, mName=GPU, mStatus=0}
	Temperature{mValue=33.2, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
Current cooling devices from HAL:
	CoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
END
;;
esac
"""


def test_a_phone_says_what_it_is_in_android_s_shell(
    android: AdbDevice, standins: Callable[[Mapping[str, str]], None]
) -> None:
    assert android.state().load_1m is not None
    standins({"getprop": GETPROP, "dumpsys": DUMPSYS, "cmd": 'echo "$@" >> /data/standins/log\n'})
    facts = android.facts()
    assert facts.cpu.startswith("Google Pixel 8, ")
    assert facts.operating_system.startswith("Android 14, Linux ")
    assert android.state().temperature_c == 39.1
    standins({"dumpsys": '[ "$1" = battery ] && echo "  temperature: 312"\n'})
    assert android.state().temperature_c in {31.2, HostDevice().state().temperature_c}

    android.close()
    android.settings = DeviceSettings(fixed_performance=True)
    android.state()
    android.push([])
    android.close()
    log = (lab.CACHE / "android/data/standins/log").read_text().splitlines()
    assert log == [f"power set-fixed-performance-mode-enabled {value}" for value in ("true", "false")]


def test_without_python_benchmark_model_measures(
    android: AdbDevice, models: list[Path], tmp_path: Path, record_property: Record
) -> None:
    """The program is a script that prints what both generations of the real one print; it measures nothing."""
    binary = tmp_path / "benchmark_model"
    binary.write_text(
        """#!/system/bin/sh
for argument in "$@"; do case $argument in --graph=*) graph=${argument#--graph=};; esac; done
case $(tail -c 1 $graph) in
C) echo "INFO: STARTING!"; kill -SEGV $$;;
H) sleep 1000;;
G) echo "count=12 first=4";;
N) echo "INFO: count=1 curr=9000"; echo "INFO: count=52 first=4906 curr=3368 min=3282 max=4906 avg=3482.5 std=39"
   echo "INFO: Inference timings in us: Init: 855, First inference: 4906, Warmup (avg): 9000, Inference (avg): 3482.5";;
*) echo "count=5 curr=100 (all same)"
   echo "Average inference timings in us: Warmup: 100, Init: 1.5e+03, Inference: 100";;
esac
"""
    )
    cases = []
    for letter in "ONCHGO":
        cases.append(tmp_path / f"{letter}{len(cases)}.tflite")
        cases[-1].write_bytes(models[0].read_bytes() + bytes([len(cases)]) + letter.encode())
    android.settings = DeviceSettings(benchmark_binary=binary, model_limit_s=2, affinity="0", delegate="gpu")
    assert runtime_version(android, "litert").endswith(" gpu")
    samples = dict(run_models(android, "litert", 1, cases, PLAN))
    assert list(samples) == list(range(6))
    assert (samples[0].min_us, samples[0].load_us, samples[0].runs) == (100, 1500, 5)
    assert (samples[1].min_us, samples[1].mean_us, samples[1].load_us) == (3282, 3482.5, 855)
    assert samples[2].reason == "segmentation fault"
    assert samples[3].reason == "took too long"
    assert samples[4].reason == "what android said of it could not be read"
    assert samples[5] == samples[0]
    record_property("faults", 3)
