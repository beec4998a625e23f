import json
import os
import sys

import pytest

from fbnet_mobile.devices import TRANSPORTS, HostDevice, ProgramError, get_device
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


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not let one choose cores")
def test_programs_run_on_the_cores_that_are_chosen() -> None:
    allowed = sorted(os.sched_getaffinity(0))
    say = [sys.executable, "-c", "import os; print(sorted(os.sched_getaffinity(0)))"]
    with HostDevice() as host:
        assert list(host.run(say)) == [str(allowed)]
        host.use(affinity=str(allowed[-1]))
        assert list(host.run(say)) == [str(allowed[-1:])]
        assert host.state().affinity == str(allowed[-1])
        assert sorted(os.sched_getaffinity(0)) == allowed
        host.use(affinity="fast")
        assert set(json.loads(next(host.run(say)))) <= set(allowed)
        host.use(affinity="1023")
        with pytest.raises(
            JobError, match=r"^host has the cores .*, not 1023; mend affinity \(1023\) in devices.yaml$"
        ):
            list(host.run(say))


def test_a_program_that_is_not_there_has_failed() -> None:
    with (
        HostDevice() as host,
        pytest.raises(ProgramError, match=r"^cannot start /nowhere/python on host: No such file"),
    ):
        list(host.run(["/nowhere/python"]))


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
