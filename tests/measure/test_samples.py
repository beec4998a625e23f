"""The journal: what is kept, what is passed over, and what a full disk does to it."""

import json
import math
import os
import random
from pathlib import Path

import pytest
from pydantic import ValidationError

from fbnet_mobile.devices.base import DeviceState
from fbnet_mobile.errors import JobError
from fbnet_mobile.measure.samples import Journal, RoundLine, RoundState, Sample, SampleLine, Session

CASES = Path(__file__).parents[1] / "cases"
STATE = DeviceState(1.0, "x", None, None, 0.1, "0")
SAMPLE = Sample(runs=5, load_us=10.0, min_us=1.0, p10_us=1.1, median_us=1.2, p90_us=1.3, mean_us=1.25)


def session(begun: str = "now", **fields: object) -> Session:
    common: dict[str, object] = {
        "device": "host", "cpu": "a cpu", "runtime": "litert", "runtime_version": "2.3.0", "threads": 1,
        "warmup_ms": 1.0, "min_ms": 5.0,
    }  # fmt: skip
    return Session.model_validate({"begun": begun, **common, **fields})


def line(model: str, begun: str = "now", round_number: int = 0, at_s: float = 1.0) -> SampleLine:
    return SampleLine(session=begun, round=round_number, model=model, sample=SAMPLE, at_s=at_s, took_s=1.0)


def written(path: Path, *models: str, own: Session | None = None) -> None:
    own = own or session("before")
    with Journal(path, own) as journal:
        for model in models:
            journal.add(line(model, own.begun, at_s=7.0))
        journal.add(
            RoundLine(session=own.begun, round=0, state=RoundState(before=STATE, after=STATE, elapsed_s=1.0), at_s=9.0)
        )


def read(path: Path, own: Session | None = None) -> Journal:
    with Journal(path, own or session()) as journal:
        return journal


def test_what_was_written_is_read_back_by_a_session_like_it(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    written(path, "a", "b")
    journal = read(path)
    assert [(found.model, found.session, found.sample) for found in journal.samples] == [
        ("a", "before", SAMPLE),
        ("b", "before", SAMPLE),
    ]
    assert [found.state.before for found in journal.rounds] == [STATE]
    assert journal.passed_over == 0
    assert journal.spent_s() >= 9.0


@pytest.mark.parametrize(
    "other",
    [{"device": "phone"}, {"runtime_version": "2.4.0"}, {"threads": 2}, {"cpu": "another"}, {"min_ms": 50.0}],
)
def test_samples_of_other_conditions_are_not_these(tmp_path: Path, other: dict[str, object]) -> None:
    path = tmp_path / "samples.jsonl"
    written(path, "a", own=session("before", **other))
    written(path, "b", own=session("yesterday"))
    journal = read(path)
    assert [found.model for found in journal.samples] == ["b"]
    assert journal.passed_over == 0


def test_a_line_cut_short_is_cut_off_and_its_neighbours_kept(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    written(path, "a")
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"line":"sample","session":"befo')
    assert [found.model for found in read(path).samples] == ["a"]
    assert path.read_bytes().startswith(whole)
    assert path.read_bytes().count(b"\n") == whole.count(b"\n") + 1, "nothing but the new session's line"
    assert read(path).passed_over == 0


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.glob("journal-*.jsonl")))
def test_damaged_lines_are_passed_over_and_counted(tmp_path: Path, name: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes((CASES / name).read_bytes())
    journal = read(path)
    assert journal.passed_over == 1
    assert len(journal.samples) == 5
    assert {found.sample.median_us for found in journal.samples} == {1.2}


def test_whatever_happens_to_its_lines_a_journal_can_be_read(tmp_path: Path) -> None:
    """Every field replaced by what it cannot be, and lines damaged at random places."""
    path = tmp_path / "samples.jsonl"
    written(path, "a", "b", "c")
    lines = path.read_text().splitlines()
    sample = json.loads(lines[1])
    odd = [None, True, "1", [], {}, -1, 1e308, math.inf, math.nan, 10**400]
    damaged = [{**sample, name: value} for name in ("round", "at_s", "took_s", "sample") for value in odd]
    for name in ("runs", "load_us", "min_us", "p10_us", "median_us", "p90_us", "mean_us"):
        absent = name in ("p10_us", "median_us", "p90_us")  # not every program prints them
        values = [value for value in odd if not (absent and value is None)]
        damaged += [{**sample, "sample": {**sample["sample"], name: value}} for value in values]
    damaged += [{**sample, "sample": {**sample["sample"], "min_us": value}} for value in (0, 5e-324, "x" * 5000)]
    damaged += [{**sample, "line": "other"}, {**sample, "more": 1}, {"line": "sample"}]
    path.write_text("\n".join([lines[0], *map(json.dumps, damaged), *lines[1:]]) + "\n")
    journal = read(path)
    assert [found.model for found in journal.samples] == ["a", "b", "c"]
    assert journal.passed_over == len(damaged)
    rng = random.Random(0)
    for _ in range(300):
        content = bytearray("\n".join(lines).encode() + b"\n")
        for _ in range(rng.randint(1, 5)):
            place = rng.randrange(len(content))
            content[place : place + rng.randint(0, 3)] = bytes(rng.randrange(256) for _ in range(rng.randint(0, 3)))
        path.write_bytes(content)
        for found in read(path).samples:
            assert 0 < found.sample.min_us < math.inf


def test_a_state_that_is_not_finite_is_no_state() -> None:
    with pytest.raises(ValidationError):
        RoundState(before=STATE, after=DeviceState(math.inf, "x", None, None, None, "0"), elapsed_s=1.0)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files, like a disk that is full, leaves half a line."""
    path = tmp_path / "samples.jsonl"
    written(path, "a", "b")
    size = path.stat().st_size
    child = os.fork()
    if child == 0:
        import resource
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 300, size + 300))
        try:
            with Journal(path, session("full")) as journal:
                journal.add(line("c", "full"))
        except JobError as error:
            os._exit(0 if "free some space there and give the same command again" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not path.read_bytes().endswith(b"\n")
    journal = read(path)
    assert [found.model for found in journal.samples] == ["a", "b"]
    assert journal.passed_over == 0
