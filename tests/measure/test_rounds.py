import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from fbnet_mobile.devices import DeviceLostError, HostDevice
from fbnet_mobile.devices.base import DeviceState
from fbnet_mobile.errors import JobError
from fbnet_mobile.formats.base import get_format, write
from fbnet_mobile.graph.trace import trace
from fbnet_mobile.latency.table import NETWORK
from fbnet_mobile.measure.plan import MeasuringPlan
from fbnet_mobile.measure.rounds import Measured, Model, measure, new_session, repeatability, summary
from fbnet_mobile.measure.samples import Journal, Sample, SampleLine
from tests.measure.clockwork import Clockwork

PLAN = MeasuringPlan(min_rounds=3, max_rounds=3, warmup_ms=0, min_ms=0.1)


def models(folder: Path, file_format: str = "tflite") -> list[Model]:
    found = []
    for channels in (1, 2, 3):
        path = folder / f"{channels}{get_format(file_format).suffix}"
        write(trace(nn.Conv2d(channels, 4, 3), (1, channels, 8, 8)), path, file_format)
        found.append(Model(f"conv{channels}", path))
    return found


def fakes(folder: Path, *sizes: int) -> list[Model]:
    """Files of so many bytes; on a clockwork device each takes a hundredth of them in us."""
    found = []
    for size in sizes:
        (folder / f"{size}.tflite").write_bytes(bytes(size))
        found.append(Model(f"m{size}", folder / f"{size}.tflite"))
    return found


def measured(device: HostDevice, wanted: list[Model], journal: Path | None, plan: MeasuringPlan = PLAN) -> Measured:
    """In a session of its own, the first model being the reference."""
    with Journal(journal, new_session(device, "litert", 1, plan)) as log:
        return measure(device, "litert", 1, wanted, "min", plan, log, reference=wanted[0].name)


@pytest.mark.parametrize(
    ("runtime", "file_format"),
    [
        ("litert", "tflite"),
        ("onnxruntime", "onnx"),
        ("openvino", "onnx"),
        ("openvino", "tflite"),
        pytest.param("executorch", "executorch", marks=pytest.mark.clients),
    ],
)
def test_every_model_is_measured_by_a_real_runtime(tmp_path: Path, runtime: str, file_format: str) -> None:
    device = HostDevice()
    journal = Journal(None, new_session(device, runtime, 1, PLAN))
    found = measure(device, runtime, 1, models(tmp_path, file_format), "min", PLAN, journal)
    for row in found.rows().values():
        assert row.rounds == 3
        assert row.runs >= 15
        assert 0 < row.min_us <= row.p10_us <= row.median_us <= row.p90_us
        assert row.min_us <= row.latency_us <= row.median_us
        assert row.session == journal.session.begun
    states = [state for own in found.states.values() for state in own]
    assert len(states) == 3
    assert all(state.elapsed_s > 0 and state.before.affinity == state.after.affinity for state in states)


def test_every_round_has_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Clockwork(monkeypatch)
    measured(device, fakes(tmp_path, *range(1000, 1020)), None)
    assert len(device.orders) == 3
    assert len({tuple(order) for order in device.orders}) == 3
    assert device.orders[0][0].name == "1000.tflite", "the reference comes first in a session"


def test_an_interrupted_run_continues_with_nothing_lost_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, journal = fakes(tmp_path, 1000, 2000, 3000), tmp_path / "journal"
    wanted[1] = Model(wanted[1].name, wanted[1].path, repeats=2)
    undisturbed = measured(Clockwork(monkeypatch), wanted, None)
    rng, cut = random.Random(0), 0
    for _ in range(20):
        device = Clockwork(monkeypatch, cut=rng.randint(0, 4))
        try:
            found = measured(device, wanted, journal)
            break
        except KeyboardInterrupt:
            cut += 1
            with journal.open("a") as file:
                file.write('{"line":"sample","session":"x","rou')  # as if it died while writing a line
    assert cut >= 3
    done = Counter((line.round, line.model) for line in found.lines if line.model != "m1000")
    assert done == {(number, name): 1 + (name == "m2000") for number in range(3) for name in ("m2000", "m3000")}
    assert {name: row.latency_us for name, row in found.rows().items()} == {
        name: row.latency_us for name, row in undisturbed.rows().items()
    }
    assert {row.rounds for row in found.rows().values()} == {3}
    assert {line.session for line in found.lines} == found.references().keys(), "a speed for every session"


@pytest.mark.parametrize("speed", [1 / 2.9, 2.9])
def test_what_another_session_measured_is_brought_to_the_speed_of_the_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speed: float
) -> None:
    wanted, journal = fakes(tmp_path, *range(1000, 3000, 100)), tmp_path / "journal"

    def latency_us(path: Path, factor: float = 1.0) -> float:
        return path.stat().st_size / 100 * factor

    with pytest.raises(KeyboardInterrupt):
        measured(Clockwork(monkeypatch, lambda path: latency_us(path, speed), cut=12), wanted, journal)
    found = measured(Clockwork(monkeypatch, latency_us), wanted, journal)
    assert len(found.references()) == 2
    for model in wanted:
        assert found.rows()[model.name].latency_us == pytest.approx(latency_us(model.path))
        assert found.rows()[model.name].uncertainty == pytest.approx(0)
    assert sorted(found.speeds().values()) == pytest.approx(sorted([1.0, speed]))


def test_sessions_of_nearly_one_speed_are_not_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, journal = fakes(tmp_path, 1000, 2000), tmp_path / "journal"
    with pytest.raises(KeyboardInterrupt):
        measured(Clockwork(monkeypatch, lambda path: 0.96 * path.stat().st_size, cut=3), wanted, journal)
    found = measured(Clockwork(monkeypatch, lambda path: path.stat().st_size), wanted, journal)
    assert found.rows()["m2000"].min_us == pytest.approx(1920)


def test_a_model_that_cannot_run_is_named_once_and_the_rest_measured(tmp_path: Path) -> None:
    wanted = models(tmp_path)
    wanted.append(Model("broken", tmp_path / "broken.tflite"))
    wanted[-1].path.write_bytes(b"not a model")
    found = measured(HostDevice(), wanted, tmp_path / "journal")
    assert list(found.failed) == ["broken"]
    assert set(found.rows()) == {model.name for model in wanted[:3]}
    again = measured(HostDevice(), wanted, tmp_path / "journal")
    assert again.failed == found.failed
    wanted[-1].path.write_bytes(wanted[0].path.read_bytes())
    mended = measured(HostDevice(), wanted, tmp_path / "journal")
    assert mended.rows()["broken"].rounds == 3, "what is mended is not held against it"


class LostWhenAsked(Clockwork):
    """A device that is lost whenever it is asked for its state after a round."""

    asked = 0

    def state(self) -> DeviceState:
        self.asked += 1
        if self.asked % 2 == 0:
            raise DeviceLostError("the cable was pulled")
        return super().state()


def test_a_device_that_is_lost_while_its_state_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = fakes(tmp_path, 1000, 2000)
    found = measured(LostWhenAsked(monkeypatch), wanted, tmp_path / "journal")
    assert {row.rounds for row in found.rows().values()} == {3}
    states = [state for own in found.states.values() for state in own]
    assert [(state.before.steal_s, state.after.steal_s) for state in states] == [(0.0, None)] * 3
    assert measured(Clockwork(monkeypatch), wanted, tmp_path / "journal").states.keys() == found.states.keys()


class WithoutMedian(Clockwork):
    """As an older benchmark_model."""

    def run(self, argv: object) -> Iterator[str]:
        for line in super().run(argv):  # type: ignore[arg-type]
            yield line.replace('"median_us"', '"other_us"')


def test_a_statistic_that_is_not_printed_is_refused_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = WithoutMedian(monkeypatch)
    journal = Journal(None, new_session(device, "litert", 1, PLAN))
    with pytest.raises(JobError, match="on host does not print the median; choose another statistic"):
        measure(device, "litert", 1, fakes(tmp_path, 1000, 2000), "median", PLAN, journal)
    assert device.timed == 1
    rows = measured(device, fakes(tmp_path, 1000), None).rows()
    assert rows["m1000"].median_us != rows["m1000"].median_us
    assert rows["m1000"].latency_us == 10


def test_rounds_end_when_the_statistic_repeats_itself_or_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = fakes(tmp_path, 1000, 2000)
    loose = MeasuringPlan(min_rounds=2, max_rounds=5, repeatability=1e9)
    assert {row.rounds for row in measured(Clockwork(monkeypatch), wanted, None, loose).rows().values()} == {2}
    # A round takes 2 s: after three, a fourth would not end within 7.
    hurried = MeasuringPlan(min_rounds=2, max_rounds=5, repeatability=-1, budget_s=7)
    assert {row.rounds for row in measured(Clockwork(monkeypatch), wanted, None, hurried).rows().values()} == {3}


def samples_of(*rounds: tuple[float, ...], name: str = "a", session: str = "now") -> list[SampleLine]:
    """A line for each minimum in each round."""
    return [
        SampleLine(
            session=session,
            round=number,
            model=name,
            sample=Sample(runs=5, load_us=1.0, min_us=us, median_us=max(us, 110.0), mean_us=max(us, 120.0)),
            at_s=1.0,
            took_s=1.0,
        )
        for number, own in enumerate(rounds)
        for us in own
    ]


def test_a_minimum_that_came_once_does_not_decide() -> None:
    rounds = {0: (100.0,) * 10, 1: (101.0,) * 9 + (50.0,), 2: (102.0,) * 10}
    found = Measured({"a": Model("a", Path("a"))}, "min", samples_of(*rounds.values()))
    row = summary(found.samples()["a"], "min")
    assert (row.latency_us, row.min_us) == (100.0, 50.0)


def test_networks_that_move_are_not_outvoted_by_steady_blocks() -> None:
    wanted = {str(number): Model(str(number), Path("a")) for number in range(5)}
    lines = [line for name in wanted for line in samples_of((10.0,), (10.1,), name=name)]
    assert repeatability(Measured(wanted, "min", lines)) == pytest.approx(0.01)
    wanted["n"] = Model("n", Path("a"), NETWORK)
    lines += samples_of((100.0,), (112.0,), name="n")
    assert repeatability(Measured(wanted, "min", lines)) == pytest.approx(0.12)
