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
        ("pi: {threads: true}", "pi: threads: Input should be a valid integer"),
        ("pi: {threads: 1025}", "pi: threads: Input should be less than or equal to 1024"),
        ("pi: {batch: 99999999}", "pi: batch: Input should be less than or equal to 1000000"),
        ("pi: {pause_s: .nan}", "pi: pause_s: Input should be a finite number"),
        ("pi: {cool_below_c: .inf}", "pi: cool_below_c: Input should be a finite number"),
        ("pi: {cool_below_c: 1000}", "pi: cool_below_c: Input should be less than or equal to 150"),
        ("pi: {reconnect_s: 1.0e+9}", "pi: reconnect_s: Input should be less than or equal to 86400"),
        ("pi: {model_limit_s: 0}", "pi: model_limit_s: Input should be greater than 0"),
        ("pi: {fixed_performance: 'no'}", "pi: fixed_performance: Input should be a valid boolean"),
        ("pi: {affinity: 0-999999999}", "pi: '0-999999999' is no list of cores"),
        ('pi: {python: "a\\nb"}', "pi: python: control characters are not allowed"),
        ('pi: {folder: "a\\x1b[0m"}', "pi: folder: control characters are not allowed"),
        ('pi: {transport: "ssh:a\\x07"}', "pi: transport: control characters are not allowed"),
        ("pi: {folder: ''}", "pi: folder: String should have at least 1 character"),
        ("pi: {folder: ~other/x}", "pi: folder: write ~/... for a path below the home folder"),
        ("pi: {benchmark_binary: ~nobody-here/x}", "pi: benchmark_binary: ~nobody-here/x: "),
        ("pi: {signing: {development_team: a}}", "pi: signing.provisioning_profile_uuid: Field required"),
        ('"a\\nb": {}', "'a\\nb' is no name of a device"),
        ("'': {}", "'' is no name of a device"),
        ("host: {transport: ssh:pi@board}", "host: that is the name of a transport; give the device another name"),
        ("'ssh:x': {transport: host}", "ssh:x: that is the name of a transport; give the device another name"),
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
    for text in ("", "a", "7-4", "1,,2", "1024", "-1", "1 ", "\u0663", "0-1e3", "1" * 5000):
        with pytest.raises(UserError, match="is no list of cores"):
            cores_of(text)


def test_an_entry_named_as_this_machine_never_measures_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FBNET_DEVICES", str(tmp_path / "devices.yaml"))
    (tmp_path / "devices.yaml").write_text("host: {transport: 'ssh:pi@board'}\n")
    with pytest.raises(UserError, match="host: that is the name of a transport; give the device another name"):
        get_device("host")
    (tmp_path / "devices.yaml").write_text("here: {transport: host, threads: 2, python: ~/python}\n")
    device = get_device("here")
    assert (device.name, device.settings.threads, device.python) == ("here", 2, str(Path.home() / "python"))


def test_a_home_that_cannot_be_looked_into_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FBNET_DEVICES", raising=False)
    monkeypatch.setenv("HOME", "/" + "a" * 300)
    with pytest.raises(
        UserError, match=r"^cannot look for .*: File name too long; name your devices.yaml, or an empty"
    ):
        get_device("host")
    monkeypatch.setenv("FBNET_DEVICES", "~/x")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x").write_text("")
    assert get_device("host").name == "host"
