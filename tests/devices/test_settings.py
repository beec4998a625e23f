from pathlib import Path

import pytest

from fbnet_mobile.devices import AdbDevice, get_device
from fbnet_mobile.devices.settings import DeviceSettings, cores_of, device_entries, devices_path
from fbnet_mobile.errors import UserError


def test_a_name_of_ones_own_is_a_device_with_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FBNET_DEVICES", str(tmp_path / "mine.yaml"))
    (tmp_path / "mine.yaml").write_text(
        "pixel8:\n  transport: adb:39281FDJH\n  threads: 4\n  affinity: fast\n  benchmark_binary: ~/benchmark_model\n"
    )
    device = get_device("pixel8")
    assert isinstance(device, AdbDevice)
    assert device.name == "pixel8"
    assert (device.settings.threads, device.settings.affinity, device.settings.delegate) == (4, "fast", "cpu")
    device.use(benchmark_binary=None, threads=2)
    assert (device.settings.threads, device.settings.benchmark_binary) == (2, Path.home() / "benchmark_model")
    with pytest.raises(UserError, match=r"unknown device 'pixel9'; did you mean 'pixel8'\? choose one of .*pixel8"):
        get_device("pixel9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pi: {transport: ssh:pi@board, afinity: fast}", "pi: afinity: unknown field; did you mean 'affinity'?"),
        ("pi: {transport: ssh:pi@board, affinity: some}", "pi: 'some' is no list of cores"),
        ("pi: {transport: ssh:pi@board, threads: 0}", "pi: threads: Input should be greater than or equal to 1"),
        ("pi: {transport: ssh:pi@board, delegate: npu}", "pi: delegate: Input should be 'cpu', 'gpu' or 'nnapi'"),
        ("pi: {transport: telnet:board}", "device 'pi': unknown device transport 'telnet'; choose one of adb, "),
        ("pi: {transport: 'ssh:pi@board; rm -rf /'}", "is no address; write ssh:user@board"),
        ("pi: ssh:pi@board", "pi: Input should be a valid dictionary"),
        ("[pi]", "not a mapping from names of devices to their settings"),
        ("pi: !!python/object/apply:os.system ['touch hit']", "not valid YAML"),
    ],
)
def test_what_is_wrong_in_devices_yaml_is_said_in_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FBNET_DEVICES", raising=False)
    Path("devices.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        get_device("pi")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert list(Path().iterdir()) == [Path("devices.yaml")]


def test_the_first_devices_yaml_found_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("FBNET_DEVICES", raising=False)
    assert devices_path() is None
    assert device_entries() == {}
    for place in ("home/.config/fbnet-mobile/devices.yaml", "devices.yaml", "named.yaml"):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{path.parent.name}-{path.stem}: {{}}")
        if place == "named.yaml":
            monkeypatch.setenv("FBNET_DEVICES", str(path))
        assert device_entries() == {f"{path.parent.name}-{path.stem}": DeviceSettings()}


def test_cores_are_listed_as_taskset_lists_them() -> None:
    assert cores_of("4-7") == [4, 5, 6, 7]
    assert cores_of("0,2,4-5") == [0, 2, 4, 5]
    for text in ("", "a", "7-4", "1,,2"):
        with pytest.raises(UserError, match="is no list of cores"):
            cores_of(text)
