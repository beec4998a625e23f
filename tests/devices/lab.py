"""Devices that this machine can be: by OpenSSH's daemon on loopback, and by Android's, which device_lab.sh builds."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("DEVICES_CACHE", ".devices-cache")).resolve()
SERVER_PORT = "5137"


class Adbd:
    """One adbd, in a root of its own or in this machine's, on a port of loopback."""

    def __init__(self, port: int, root: Path | None, environment: Mapping[str, str]) -> None:
        self.serial = f"127.0.0.1:{port}"
        self._environment = {**environment, "ADBD_PORT": str(port)}
        chroot = shutil.which("chroot") or "chroot"
        self._command: Sequence[str] = [str(CACHE / "adbd")] if root is None else [chroot, str(root), "/adbd"]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for _ in range(100):
            done = subprocess.run(["adb", "connect", self.serial], capture_output=True, text=True, check=False)
            if done.stdout.startswith(("connected", "already")):
                return
            time.sleep(0.1)
        raise RuntimeError(f"adbd at {self.serial} does not answer: {done.stdout}")

    def kill(self) -> None:
        """The daemon alone, as when it crashes or USB debugging is switched off."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        self.kill()
        subprocess.run(["adb", "disconnect", self.serial], capture_output=True, check=False)


@contextlib.contextmanager
def adb_server(home: Path) -> Iterator[None]:
    """A server of our own, with keys and logs in ``home``."""
    os.environ.update(ANDROID_ADB_SERVER_PORT=SERVER_PORT, HOME=str(home), TMPDIR=str(home))
    subprocess.run(["adb", "start-server"], capture_output=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["adb", "kill-server"], capture_output=True, check=False)


class Sshd:
    """A daemon of our own on a free port, with keys of its own, and an ``ssh`` on the path that knows them."""

    def __init__(self, folder: Path, root: Path = Path("/"), environment: str = "") -> None:
        """``folder`` is for its files; it lies in ``root``, in which the daemon runs."""
        daemon = "/usr/sbin/sshd" if root != Path("/") else shutil.which("sshd") or "/usr/sbin/sshd"
        inside = Path("/") / folder.relative_to(root)
        if not (root / daemon[1:]).exists():
            raise RuntimeError("there is no sshd; `make test` installs it, or: apt-get install openssh-server")
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
            # A home of its own: a shell's start-up files on this machine may take longer than what we run.
            f"SetEnv HOME={inside}/home XDG_CACHE_HOME={inside}/home OMP_NUM_THREADS=1 {environment}\n"
        )
        (folder / "ssh_config").write_text(
            f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n  UserKnownHostsFile {folder}/known\n"
        )
        self.path = folder / "bin"
        self.path.mkdir()
        script = self.path / "ssh"
        script.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
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
        raise RuntimeError(f"sshd does not start: {(self.folder / 'log').read_text()}")

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
