"""The commands with a device at the other end of ssh."""

import importlib
import json
import math
import os
import re
import sys
from pathlib import Path

import pytest

from fbnet_mobile.latency.table import LatencyTable
from tests.devices.lab import Sshd
from tests.devices.test_lock import holding
from tests.formats.each import APART


def command(name: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", [f"fbnet-{name}", *arguments])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"fbnet_mobile.cli.{name}").main()
    return int(ended.value.code or 0)


def test_devices_are_listed_and_checked(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')
    bare.chmod(0o755)
    yaml = Path(os.environ["FBNET_DEVICES"])
    away = "away: {transport: 'ssh:nobody@127.0.0.1:9'}\n"
    yaml.write_text(f"{yaml.read_text()}{away}bare: {{transport: '{sshd.name}', python: {bare}}}\n")

    assert command("profile", "--list-devices", monkeypatch=monkeypatch) == 0
    shown = capsys.readouterr().out
    host, board = (shown.split(f"{name}\n", 1)[1].splitlines() for name in ("host", "board"))
    assert host[0].split(",")[0] == board[0].split(",")[0]
    assert "litert " in host[2]
    assert host[2] == board[2]
    assert "away\n  not usable: cannot reach away: ssh: connect to host 127.0.0.1 port 9: Connection refused" in shown
    assert shown.endswith("runtimes: none\n")

    assert command("profile", "--check-device", "board", monkeypatch=monkeypatch) == 0
    missing = re.findall("missing +([^:]*):", capsys.readouterr().out)
    assert set(missing) <= {*APART}
    assert command("profile", "--check-device", "bare", monkeypatch=monkeypatch) == 1
    shown = capsys.readouterr().out
    assert f"missing  litert: run there: {bare} -m pip install ai-edge-litert\n" in shown
    assert command("profile", "--check-device", "away", monkeypatch=monkeypatch) == 1
    assert capsys.readouterr().err.startswith("error: cannot reach away: ")


def test_a_model_is_benchmarked_over_ssh(
    sshd: Sshd,
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report = tmp_path / "report.json"
    arguments = [str(models[0]), "--device", "board", "--threads", "2", "-o", str(report)]
    assert command("benchmark", *arguments, monkeypatch=monkeypatch) == 0
    (found,) = json.loads(report.read_text())["models"]
    assert found["threads"] == 2
    assert found["latency"]["min_us"] > 0
    assert "latency on board (" in capsys.readouterr().out
    assert not (sshd.home / "fbnet-mobile").exists()


def test_a_device_in_use_is_refused_in_one_line_and_still_listed(
    sshd: Sshd,
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = holding(tmp_path, "board")
    try:
        assert command("benchmark", str(models[0]), "--device", "board", monkeypatch=monkeypatch) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: board is in use by ")
        assert f"pid {other.pid}) since " in said
        assert said.count("\n") == 1
        assert command("profile", "--list-devices", monkeypatch=monkeypatch) == 0
        *described, last = capsys.readouterr().out.split("board\n", 1)[1].splitlines()
        assert " cores, " in described[0]
        assert last.startswith("  not usable: board is in use by ")
    finally:
        other.communicate("")
    assert not (sshd.home / "fbnet-mobile").exists()


def test_a_table_by_benchmark_model_has_the_statistics_that_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program is a script that prints what the real one does; it measures nothing."""
    binary = tmp_path / "benchmark_model"
    binary.write_text(
        "#!/bin/sh\necho 'INFO: count=52 first=4906 curr=3368 min=3282 max=4906 avg=3482.5 std=39'\n"
        "echo 'INFO: Inference timings in us: Init: 855, First inference: 4906, Inference (avg): 3482.5'\n"
    )
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\nresolution: 8\nclasses: 2\nstem: {out_channels: 8, stride: 2, activation: relu}\n"
        "stages:\n  - {out_channels: [8], depth: 1, stride: 1, skip: false, expansion_ratio: [1, 2],\n"
        "     kernel_size: [3], squeeze_excite: [false], activation: [relu]}\n"
        "head: {conv_channels: 8, activation: relu}\n"
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["--benchmark-binary", str(binary), "--space", "tiny.yaml", "--networks", "0", "--rounds", "2"]
    assert command("profile", *arguments, "-o", "table.csv", monkeypatch=monkeypatch) == 0
    table = LatencyTable.load(Path("table.csv"))
    assert table.conditions.runtime_version.endswith(" cpu")
    assert {(row.latency_us, row.mean_us) for row in table.rows.values()} == {(3282.0, 3482.5)}
    assert all(math.isnan(row.p90_us) for row in table.rows.values())
