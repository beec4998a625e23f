"""Fixtures of real devices on this machine."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from fbnet_mobile.formats.base import write
from fbnet_mobile.graph.trace import trace
from tests.devices.lab import Sshd


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    passed = terminalreporter.stats.get("passed", [])
    faults = sum(count for report in passed for name, count in report.user_properties if name == "faults")
    if faults:
        terminalreporter.write_line(f"faults of devices injected and survived: {faults}")


@pytest.fixture
def models(tmp_path: Path) -> list[Path]:
    """Three small TFLite files."""
    found = []
    for channels in (1, 2, 3):
        found.append(tmp_path / f"{channels}.tflite")
        write(trace(nn.Conv2d(channels, 4, 3), (1, channels, 8, 8)), found[-1], "tflite")
    return found


@pytest.fixture(scope="session")
def sshd_on_loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    daemon = Sshd(tmp_path_factory.mktemp("sshd"))
    yield daemon
    daemon.stop()


@pytest.fixture
def sshd(sshd_on_loopback: Sshd, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The daemon, with a devices.yaml that has it as ``board``, whose Python is ours."""
    monkeypatch.setenv("PATH", str(sshd_on_loopback.path), prepend=os.pathsep)
    devices = sshd_on_loopback.folder / "devices.yaml"
    devices.write_text(f"board:\n  transport: {sshd_on_loopback.name}\n  python: {sys.executable}\n  reconnect_s: 20\n")
    monkeypatch.setenv("FBNET_DEVICES", str(devices))
    return sshd_on_loopback
