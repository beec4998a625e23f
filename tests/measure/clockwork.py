"""A device whose latencies and whose time are numbers of a test's: nothing is run and no clock is read."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from fbnet_mobile.devices import HostDevice
from fbnet_mobile.devices.base import DeviceState
from fbnet_mobile.measure import samples


class Clockwork(HostDevice):
    """This machine by name; a model takes ``latency_us`` of its file, and ``sample_s`` to measure.

    Args:
        monkeypatch: by which the journal's clock becomes this device's.
        latency_us: of a model file, whose bytes decide it unless told otherwise.
        cut: after how many samples it is interrupted; never if None.
        sample_s: by which its clock goes on with each sample.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        latency_us: Callable[[Path], float] = lambda path: path.stat().st_size / 100,
        cut: int | None = None,
        sample_s: float = 1.0,
    ) -> None:
        super().__init__()
        self.latency_us, self.cut, self.sample_s = latency_us, cut, sample_s
        self.now_s, self.timed, self.orders = 0.0, 0, list[list[Path]]()
        monkeypatch.setattr(samples, "monotonic", lambda: self.now_s)

    def state(self) -> DeviceState:
        return DeviceState(0.5, "performance", 2000.0, 40.0, 0.0, "0")

    def run(self, argv: Sequence[str]) -> Iterator[str]:
        job = json.loads(Path(argv[-1]).read_text())
        yield json.dumps({"runtime_version": "1.0"})
        models = [Path(model) for model in job["models"]]
        if models:
            self.orders.append(models)
        for number, model in enumerate(models):
            if self.timed == self.cut:
                raise KeyboardInterrupt
            self.now_s, self.timed = self.now_s + self.sample_s, self.timed + 1
            us = self.latency_us(model)
            names = ("min_us", "p10_us", "median_us", "p90_us", "mean_us")
            yield json.dumps({"model": number, "runs": 10, "load_us": 100.0, **dict.fromkeys(names, us)})
