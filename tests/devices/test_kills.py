"""Profiling killed again and again at random moments: the same command, typed once more, finishes the table."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.devices import lab
from tests.devices.lab import Sshd

pytestmark = pytest.mark.devices

KILLS = 20
SPACE = """
name: tiny
resolution: 16
classes: 4
stem: {out_channels: 8, kernel_size: 3, stride: 1, activation: relu}
stages:
  - {out_channels: {low: 8, high: 16, step: 8}, depth: 2, stride: 2, skip: true, expansion_ratio: [1, 2],
     kernel_size: [3, 5], squeeze_excite: [false], activation: [relu]}
head: {conv_channels: 16, activation: relu}
"""


@pytest.fixture
def over_adb(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "adb").mkdir()
    with lab.adb_server(tmp_path / "adb"):
        daemon = lab.Adbd(5601, None, os.environ)
        yield f"adb:{daemon.serial}"
        daemon.stop()


@pytest.fixture(params=["ssh", "adb"])
def device(request: pytest.FixtureRequest, tmp_path: Path, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name in devices.yaml for this machine behind sshd or adbd."""
    transport = sshd.name if request.param == "ssh" else request.getfixturevalue("over_adb")
    devices = tmp_path / "devices.yaml"
    devices.write_text(f"board: {{transport: '{transport}', python: {sys.executable}, folder: {tmp_path}/remote}}\n")
    (tmp_path / "remote").mkdir()
    monkeypatch.setenv("FBNET_DEVICES", str(devices))
    return "board"


def test_killed_twenty_times_the_table_has_the_same_rows(
    device: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    def profile(output: Path, name: str) -> "subprocess.Popen[bytes]":
        code = "from fbnet_mobile.cli.profile import main; main()"
        options = ["--device", name, "--space", "tiny.yaml", "--rounds", "4", "--networks", "4", "-o", str(output)]
        with (tmp_path / "said").open("ab") as said:
            return subprocess.Popen([sys.executable, "-c", code, *options], cwd=tmp_path, stdout=said, stderr=said)

    def keys(path: Path) -> list[tuple[str, str]]:
        table = pd.read_csv(path, keep_default_na=False)
        table = table[table["kind"].isin(["invocation", "block", "network"])]
        return list(zip(table["kind"], table["blocks"], strict=True))

    (tmp_path / "tiny.yaml").write_text(SPACE)
    begun = time.monotonic()
    assert profile(tmp_path / "undisturbed.csv", device).wait() == 0, (tmp_path / "said").read_text()
    whole_s = time.monotonic() - begun

    rng, killed = random.Random(0), 0
    while killed < KILLS:
        running = profile(tmp_path / "killed.csv", device)
        try:
            # From the first moment on: while building, connecting, pushing, measuring, writing.
            if running.wait(rng.uniform(0, 0.7 * whole_s)) == 0 and (tmp_path / "killed.csv").exists():
                (tmp_path / "killed.csv").unlink()  # done too early: what is left to kill begins anew
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
            killed += 1
    assert profile(tmp_path / "killed.csv", device).wait() == 0, (tmp_path / "said").read_text()
    assert keys(tmp_path / "killed.csv") == keys(tmp_path / "undisturbed.csv")
    assert not list((tmp_path / "remote").rglob("*")), "pushed files are left on the device"
    record_property("faults", killed)
