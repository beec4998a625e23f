"""What does a training step of the supernet cost, in time and memory, beside the largest single network of its space?

    python benchmarks/supernet_cost.py --rounds 40 -o runs/supernet_cost [--peer-python path/to/nni/bin/python]

Four questions, the first and the last two of a space of six inverted residuals at 64x64 pixels (6 expansions, 4 widths,
kernels 3 and 5, squeeze-excite, two activations, skip):

    modes         the supernet in each mode, and NNI's GumbelDARTS with masks (where a Python with nni 3.0 is named),
                  against the largest network of the space on the same batch
    choices       from 1 to 10 output widths a stage, the widest staying the same: the supernet, and the textbook one,
                  in which a layer holds a path for each combination of width, expansion and kernel
    resolutions   from 1 to 4 input resolutions, all in each step, against the sum of steps at each alone
    one           4 input resolutions of which one is run a step (straight-through), against a space with that one alone

A step is forward, backward and SGD with momentum for the weights. All that is compared is run in turns in one process
(NNI in a process of its own, in the same turns), in random order, round after round; the time is the median, the ratio
the median of the rounds' own ratios. Memory is the most that tensors took at once in a step: PyTorch's own count on a
GPU, and on a CPU the profiler's record of every allocation on top of weights and momentum. Buffers that oneDNN and
OpenMP allocate by themselves are not in it. Prints tables and writes results.json.
"""

import argparse
import itertools
import json
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler reports its starts and stops otherwise
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the commands do
import torch
import torch.nn.functional as F
from results_file import write_results
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.engine.allocator import tune_allocator
from fbnet_mobile.search.choices import Choices, Weights, straight_through
from fbnet_mobile.search.recipe import Mode
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import RESOLUTION, Option, SearchSpace

SPACE = """
name: six-blocks
resolution: 64
classes: 10
stem: {out_channels: 16, stride: 2}
stages:
  - {out_channels: {low: 12, high: 24, step: 4}, depth: 3, stride: 1, skip: true,
     expansion_ratio: &e [1, 2, 3, 4, 5, 6], kernel_size: &k [3, 5], squeeze_excite: &s [false, true],
     activation: &a [relu, hswish]}
  - {out_channels: {low: 24, high: 48, step: 8}, depth: 3, stride: 2, skip: true, expansion_ratio: *e,
     kernel_size: *k, squeeze_excite: *s, activation: *a}
head: {conv_channels: 192}
"""
"""The space of the first question; the peer script builds the same."""
RESOLUTIONS = (64, 48, 40, 32)


class Subject:
    """A module that is trained, and one step of it."""

    def __init__(
        self, module: nn.Module, images: Tensor, labels: Tensor, weights: Callable[[], Weights] | None
    ) -> None:
        self.module = module.to(images.device).to(memory_format=torch.channels_last).train()
        self.images, self.labels, self.weights = images, labels, weights
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=1e-4, momentum=0.9)

    def step(self) -> None:
        """Forward, backward and update."""
        self.optimizer.zero_grad()
        if self.weights is None:
            logits = self.module(self.images)
        else:
            with torch.no_grad():
                weights = self.weights()
            logits = self.module(self.images, weights)
        torch.autograd.backward(F.cross_entropy(logits, self.labels))
        self.optimizer.step()

    def seconds(self) -> float:
        """Of one step."""
        synchronise(self.images)
        started = time.perf_counter()
        self.step()
        synchronise(self.images)
        return time.perf_counter() - started

    def peak_mb(self) -> float:
        """The most that tensors take at once in a step, in megabytes."""
        self.step()
        self.optimizer.zero_grad()
        if self.images.device.type == "cuda":
            others = torch.cuda.memory_allocated() - self._held()
            torch.cuda.reset_peak_memory_stats()
            self.step()
            return (torch.cuda.max_memory_allocated() - others) / 1e6
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            self.step()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(path))
            events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
        held = most = self._held()
        for event in sorted(events, key=lambda event: float(event["ts"])):
            held += event["args"]["Bytes"]
            most = max(most, held)
        return most / 1e6

    def _held(self) -> int:
        """Bytes of the images, the weights and the optimiser's state."""
        momentum = [state["momentum_buffer"] for state in self.optimizer.state.values() if "momentum_buffer" in state]
        tensors = [self.images, *self.module.parameters(), *self.module.buffers(), *momentum]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Peer:
    """The same for a script in another Python, which answers a line ``step`` or ``peak_mb`` with a number."""

    def __init__(self, python: str, script: Path, options: Mapping[str, object]) -> None:
        self.process = subprocess.Popen(
            [python, str(script), json.dumps(dict(options))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def _ask(self, what: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(what, file=self.process.stdin, flush=True)
        for line in self.process.stdout:  # libraries may print too
            if line.startswith("answer "):
                return float(line.split()[1])
        raise RuntimeError("the peer ended; what it said is above")

    def seconds(self) -> float:
        """Of one step."""
        return self._ask("step")

    def peak_mb(self) -> float:
        """As of a ``Subject``."""
        return self._ask("peak_mb")


class Textbook(nn.Module):
    """The textbook supernet: for each layer a path for each width, expansion and kernel, padded and added up."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.space = space
        self.layers = nn.ModuleList()
        self.paths: list[list[dict[str, Option]]] = []
        for position in space.positions:
            widest: dict[str, Any] = {name: max(options) for name, options in position.variables.items()}
            out = position.out_channels
            names = [*([out] if isinstance(out, str) else []), *position.own.values()]
            options = itertools.product(*(position.variables[name] for name in names))
            chosen = [dict(zip(names, values, strict=True)) for values in options]
            layer = nn.ModuleList()
            for one in chosen:
                # Its input is at the widest, even where its output shares the choice of width.
                block = position.build(
                    widest[RESOLUTION],
                    max(position.widths(position.in_channels)),
                    int(one[out]) if isinstance(out, str) else out,
                    {choice: one[name] for choice, name in position.own.items()},
                )
                layer.append(block.build())
            self.layers.append(layer)
            self.paths.append(chosen)

    def forward(self, images: Tensor, weights: Weights) -> Tensor:
        """As a ``Supernet``."""
        features, variables = images, self.space.variables
        for layer, chosen in zip(self.layers, self.paths, strict=True):
            total: Tensor | None = None
            outs: list[Tensor] = []
            for path, module in zip(chosen, cast(nn.ModuleList, layer), strict=True):
                weight = torch.ones((), device=images.device)
                for name, option in path.items():
                    weight = weight * weights[name][variables[name].index(option)]
                outs.append(weight * module(features))
            widest = max(out.shape[1] for out in outs)
            for out in outs:
                padded = F.pad(out, (0, 0, 0, 0, 0, widest - out.shape[1])) if out.dim() == 4 else out
                total = padded if total is None else total + padded
            assert total is not None
            features = total
        return features


def synchronise(tensor: Tensor) -> None:
    """Wait for a GPU."""
    if tensor.device.type == "cuda":
        torch.cuda.synchronize()


def largest(space: SearchSpace) -> Architecture:
    """The largest network of a space: of every choice the largest option, nothing skipped, hard swish."""
    return space.architecture({name: _largest(name, options) for name, options in space.variables.items()})


def _largest(name: str, options: tuple[Option, ...]) -> Option:
    if name.endswith(".skip"):
        return False
    return "hswish" if "hswish" in options else max(options)


def with_widths(count: int) -> SearchSpace:
    """One stage of five layers with ``count`` output widths up to 80, two expansions and two kernels."""
    widths = [80 - 8 * number for number in range(count)][::-1]
    return SearchSpace.from_yaml(
        f"""
name: widths-{count}
resolution: 32
classes: 10
stem: {{out_channels: 16, stride: 2}}
stages:
  - {{out_channels: {widths}, depth: 5, expansion_ratio: [2, 3], kernel_size: [3, 5],
     squeeze_excite: false, activation: relu}}
head: {{conv_channels: 128}}
"""
    )


class Measuring:
    """The batch, and what has been measured."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.rows: list[dict[str, Any]] = []

    def batch(self, space: SearchSpace) -> tuple[Tensor, Tensor]:
        """Random images and labels."""
        size, generator = max(space.resolution), torch.Generator().manual_seed(0)
        images = torch.randn(self.options.batch_size, 3, size, size, generator=generator)
        labels = torch.randint(space.classes, (len(images),), generator=generator)
        return images.to(self.device, memory_format=torch.channels_last), labels.to(self.device)

    def network(self, space: SearchSpace) -> Subject:
        """The largest single network of a space."""
        return Subject(build(largest(space)), *self.batch(space), None)

    def supernet(self, space: SearchSpace, module: nn.Module, resolution: int | None = None) -> Subject:
        """A supernet with weights drawn anew each step; only one resolution if one is named."""
        choices, generator = Choices(space).to(self.device), torch.Generator().manual_seed(0)

        def weights() -> Weights:
            drawn = dict(choices.sample(1.0, generator))
            if resolution is not None:
                at = torch.tensor([float(size == resolution) for size in space.resolution], device=self.device)
                drawn[RESOLUTION] = straight_through(at)
            return drawn

        return Subject(module, *self.batch(space), weights)

    def compare(
        self, question: str, subjects: Mapping[str, Subject | Peer], reference: str
    ) -> dict[str, dict[str, float]]:
        """Time all in turns, take their memory, print a table against ``reference``."""
        rng = random.Random(0)
        names = list(subjects)
        for name in names:
            subjects[name].seconds()
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(self.options.rounds):
            for name in rng.sample(names, len(names)):
                times[name].append(subjects[name].seconds())
        memory = {name: subjects[name].peak_mb() for name in names}
        found = {}
        print(f"\n{question}\n{'':34} {'ms a step':>10} {'times':>7} {'MB':>8} {'times':>7}")
        for name in names:
            ratios = [one / other for one, other in zip(times[name], times[reference], strict=True)]
            found[name] = {
                "step_ms": 1e3 * statistics.median(times[name]),
                "step_ratio": statistics.median(ratios),
                "peak_mb": memory[name],
                "peak_ratio": memory[name] / memory[reference],
            }
            self.rows.append({"question": question, "subject": name, "reference": reference, **found[name]})
            row = found[name]
            print(
                f"{name:34} {row['step_ms']:>10.2f} {row['step_ratio']:>7.3f} {row['peak_mb']:>8.2f} "
                f"{row['peak_ratio']:>7.3f}",
                flush=True,
            )
        return found

    def modes(self) -> None:
        """The supernet in each mode against the largest network."""
        space = SearchSpace.from_yaml(SPACE)
        subjects: dict[str, Subject | Peer] = {"largest network": self.network(space)}
        modes: tuple[Mode, ...] = ("shared", "candidates")
        for mode in modes:
            subjects[f"supernet, {mode}"] = self.supernet(space, Supernet(space, mode))
        if self.options.peer_python:
            script = Path(__file__).with_name("nni_step.py")
            peer = {"batch_size": self.options.batch_size, "threads": self.options.threads, "device": str(self.device)}
            subjects["NNI network, largest"] = Peer(self.options.peer_python, script, {**peer, "search": False})
            subjects["NNI GumbelDARTS, masks"] = Peer(self.options.peer_python, script, {**peer, "search": True})
        self.compare("modes", subjects, "largest network")

    def choices(self) -> None:
        """From 1 to 10 output widths."""
        counts = (1, 2, 5, 10)
        subjects: dict[str, Subject | Peer] = {}
        for count in counts:
            space = with_widths(count)
            subjects[f"shared, {count} widths"] = self.supernet(space, Supernet(space))
        self.compare("choices, shared", subjects, "shared, 1 widths")
        subjects = {}
        for count in counts:
            space = with_widths(count)
            subjects[f"textbook, {count} widths"] = self.supernet(space, Textbook(space))
        self.compare("choices, one path each", subjects, "textbook, 1 widths")

    def resolutions(self) -> None:
        """From 1 to 4 input resolutions, all in each step."""
        base = SearchSpace.from_yaml(SPACE)
        subjects: dict[str, Subject | Peer] = {}
        for size in RESOLUTIONS:
            space = base.changed(resolution=size)
            subjects[f"{size} pixels alone"] = self.supernet(space, Supernet(space))
        for count in range(2, len(RESOLUTIONS) + 1):
            space = base.changed(resolution=RESOLUTIONS[:count])
            subjects[f"{count} resolutions"] = self.supernet(space, Supernet(space))
        found = self.compare("resolutions", subjects, f"{RESOLUTIONS[0]} pixels alone")
        for count in range(2, len(RESOLUTIONS) + 1):
            alone = sum(found[f"{size} pixels alone"]["step_ms"] for size in RESOLUTIONS[:count])
            ratio = found[f"{count} resolutions"]["step_ms"] / alone
            print(f"{count} resolutions: {ratio:.3f} times the sum of the steps alone")
            self.rows.append({"question": "resolutions, of the sum alone", "subject": str(count), "step_ratio": ratio})

    def one(self) -> None:
        """4 input resolutions, one of which is run."""
        base = SearchSpace.from_yaml(SPACE)
        space = base.changed(resolution=RESOLUTIONS)
        for size in (RESOLUTIONS[0], RESOLUTIONS[-1]):
            alone = base.changed(resolution=size)
            subjects: dict[str, Subject | Peer] = {
                f"{size} pixels alone": self.supernet(alone, Supernet(alone)),
                f"{size} pixels, one of 4": self.supernet(space, Supernet(space), size),
            }
            self.compare(f"one resolution a step, {size}", subjects, f"{size} pixels alone")


QUESTIONS = ("modes", "choices", "resolutions", "one")


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description="What a training step of the supernet costs.")
    parser.add_argument("--questions", nargs="+", default=QUESTIONS, choices=QUESTIONS)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--peer-python", help="a Python that has nni 3.0")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tune_allocator()
    measuring = Measuring(options)
    for question in options.questions:
        getattr(measuring, question)()
    gpu = torch.cuda.get_device_name() if options.device == "cuda" else None
    write_results(options.output / "results.json", {"gpu": gpu, "rows": measuring.rows}, options)


if __name__ == "__main__":
    main()
