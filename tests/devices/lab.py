"""Android's daemon on this machine, as ``tools/device_lab.sh`` builds it and where it can be run."""

import contextlib
import os
import shutil
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
