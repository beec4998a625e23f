"""Real devices on this machine: OpenSSH's daemon on loopback."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from fbnet_mobile.export.formats import write
from fbnet_mobile.export.trace import trace


class Sshd:
    """A daemon of our own on a free port, with keys of its own, and an ``ssh`` on the path that knows them."""

    def __init__(self, folder: Path, root: Path = Path("/"), environment: str = "") -> None:
        """``folder`` is for its files; it lies in ``root``, in which the daemon runs."""
        daemon = "/usr/sbin/sshd" if root != Path("/") else shutil.which("sshd") or "/usr/sbin/sshd"
        inside = Path("/") / folder.relative_to(root)
        if not (root / daemon[1:]).exists():
            pytest.fail("there is no sshd; `make test` installs it, or: apt-get install openssh-server openssh-client")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        enter = [] if root == Path("/") else [shutil.which("chroot") or "chroot", str(root)]
        self._command = [*enter, daemon, "-D", "-f", f"{inside}/sshd_config", "-E", f"{inside}/log"]
        self.folder = folder
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)], check=True)
        shutil.copy(folder / "user.pub", folder / "authorized")
        (folder / "known").write_text(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}")
        self.home = folder / "home"
        self.home.mkdir()
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {inside}/host\nPidFile {inside}/pid\nStrictModes no\n"
            f"AuthorizedKeysFile {inside}/authorized\nUsePAM no\nSubsystem sftp internal-sftp\nMaxStartups 100\n"
            f"SetEnv XDG_CACHE_HOME={inside}/home OMP_NUM_THREADS=1 {environment}\n"
        )
        (folder / "ssh_config").write_text(
            f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
        )
        self.path = folder / "bin"
        self.path.mkdir()
        for program in ("ssh", "scp"):
            script = self.path / program
            script.write_text(f'#!/bin/sh\nexec {shutil.which(program)} -F {folder}/ssh_config "$@"\n')
            script.chmod(0o755)
        self.name = f"ssh:{pwd.getpwuid(os.getuid()).pw_name}@127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, start_new_session=True)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        pytest.fail(f"sshd does not start: {(self.folder / 'log').read_text()}")

    def sessions(self) -> list[int]:
        """The daemon's processes that serve a connection."""
        assert self._process is not None
        return _children(self._process.pid)

    def kill_sessions(self) -> None:
        """As when a cable is pulled, but noticed at once: all connections end and nothing is said."""
        for pid in self.sessions():
            for served in (*_children(pid), pid):
                subprocess.run(["kill", "-9", str(served)], check=False, stderr=subprocess.DEVNULL)

    def stop(self) -> None:
        """No connection is left and none can be made."""
        sessions = self.sessions()
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for pid in sessions:
            subprocess.run(["kill", "-9", *map(str, _children(pid)), str(pid)], check=False, stderr=subprocess.DEVNULL)


def _children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "--no-headers", "-o", "pid", "--ppid", str(pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


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
