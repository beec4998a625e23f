import sys

import pytest

from fbnet_mobile.devices import TRANSPORTS, HostDevice, get_device
from fbnet_mobile.errors import JobError, UserError


def test_host_runs_programs_and_reports_their_end() -> None:
    with get_device("host") as host:
        assert list(host.run([sys.executable, "-c", "print('a b'); print('c')"])) == ["a b", "c"]
        program = "import sys; print('x' * 10); sys.stderr.write('y' * 200000 + '\\nlast words'); sys.exit(3)"
        lines = host.run([sys.executable, "-c", program])
        assert next(lines) == "x" * 10
        with pytest.raises(JobError, match=r"on host ended with code 3: last words"):
            next(lines)
        assert next(iter(host.run(["echo", "a; touch b"]))) == "a; touch b"


def test_host_describes_itself() -> None:
    facts = HostDevice().facts()
    assert facts.cores >= 1
    assert facts.memory_mb > 100
    assert facts.cpu
    assert facts.governor


def test_a_transport_is_one_registration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TRANSPORTS, "_entries", dict(TRANSPORTS._entries))

    class Board(HostDevice):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    TRANSPORTS.add("board", Board)
    assert get_device("board:7").name == "board:7"
    with pytest.raises(UserError, match="there is a device transport 'ssh' already"):
        TRANSPORTS.add("ssh", Board)
    with pytest.raises(UserError, match=r"unknown device 'hots'; did you mean 'host'\? choose one of adb, board, "):
        get_device("hots")
    with pytest.raises(UserError, match="this machine is called 'host'"):
        get_device("host:1")
