"""NNI 3.0's one-shot search of the space of ``supernet_cost.py``, one training step at a time; run by that script.

In a Python of its own, as NNI needs other companions than we do: started with options as JSON, it answers each line
``step`` with the seconds of one step and ``peak_mb`` with the most memory that tensors took in one. The supernet is
what ``GumbelDARTS.mutate_model`` makes of the model, so its weights are masked and drawn as NNI does; squeeze-excite
and the whole block (skip) are ``LayerChoice``, as NNI has no gates.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

try:
    import nni
    from nni.nas.nn.pytorch import LayerChoice, ModelSpace, MutableBatchNorm2d, MutableConv2d, MutableLinear
    from nni.nas.strategy import GumbelDARTS
except ImportError as error:
    sys.exit(f"this Python has no nni 3.0 with its search: {error}")


class Excite(nn.Module):
    """Squeeze-excite at the widest."""

    def __init__(self, channels: Any, squeezed: int) -> None:
        super().__init__()
        self.reduce = MutableConv2d(channels, squeezed, 1)
        self.expand = MutableConv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Scale the channels."""
        hidden = F.hardswish(self.reduce(F.adaptive_avg_pool2d(features, 1)))
        return features * F.hardsigmoid(self.expand(hidden))


class Block(nn.Module):
    """An inverted residual with NNI's choices."""

    def __init__(self, name: str, wide_in: int, out: Any, stride: int, residual: bool, search: bool) -> None:
        super().__init__()
        options = [ratio * wide_in for ratio in range(1, 7)]
        middle: Any = nni.choice(f"{name}_expanded", options) if search else options[-1]
        kernel: Any = nni.choice(f"{name}_kernel", [3, 5]) if search else 5
        self.expand = nn.Sequential(
            MutableConv2d(self.input(wide_in, out, residual), middle, 1, bias=False),
            MutableBatchNorm2d(middle),
            self.activation(f"{name}_act", search),
        )
        padding = nni.choice(f"{name}_kernel", [3, 5]) // 2 if search else 2
        self.depthwise = nn.Sequential(
            MutableConv2d(middle, middle, kernel, stride=stride, padding=padding, groups=middle, bias=False),
            MutableBatchNorm2d(middle),
            self.activation(f"{name}_act", search),
        )
        excite: nn.Module = Excite(middle, options[-1] // 4)
        self.excite = LayerChoice([excite, nn.Identity()], label=f"{name}_excite") if search else excite
        self.project = nn.Sequential(MutableConv2d(middle, out, 1, bias=False), MutableBatchNorm2d(out))
        self.residual = residual

    @staticmethod
    def activation(label: str, search: bool) -> nn.Module:
        """One choice of activation for the block."""
        return LayerChoice([nn.ReLU(), nn.Hardswish()], label=label) if search else nn.Hardswish()

    @staticmethod
    def input(wide_in: int, out: Any, residual: bool) -> Any:
        """The width of the input: that of the stage where the block is inside it."""
        return out if residual else wide_in

    def forward(self, features: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.project(self.excite(self.depthwise(self.expand(features))))
        return features + out if self.residual else out


class Network(ModelSpace):  # type: ignore[misc]  # its base is not there when types are checked
    """The six blocks of ``supernet_cost.SPACE``."""

    def __init__(self, search: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        blocks: list[nn.Module] = []
        before: int = 16
        for stage, (widths, stride) in enumerate((((12, 16, 20, 24), 1), ((24, 32, 40, 48), 2))):
            out: Any = nni.choice(f"s{stage}_out", list(widths)) if search else widths[-1]
            for number in range(3):
                name = f"s{stage}_b{number}"
                block = Block(name, before, out, stride if number == 0 else 1, number > 0, search)
                skip = search and number > 0
                blocks.append(LayerChoice([block, nn.Identity()], label=f"{name}_skip") if skip else block)
                before = widths[-1]
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            MutableConv2d(out, 192, 1, bias=False), nn.BatchNorm2d(192), nn.Hardswish(), nn.AdaptiveAvgPool2d(1)
        )
        self.classifier = MutableLinear(192, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Images to logits."""
        logits: Tensor = self.classifier(self.head(self.blocks(self.stem(images))).flatten(1))
        return logits


def main() -> None:
    """Answer until the input ends."""
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    device = torch.device(options["device"])
    search = options["search"]
    model: nn.Module = Network(search)
    if search:
        model = GumbelDARTS().mutate_model(model)
    model = model.to(device).to(memory_format=torch.channels_last).train()
    weights = [parameter for name, parameter in model.named_parameters() if "_arch" not in name]
    optimizer = torch.optim.SGD(weights, lr=1e-4, momentum=0.9)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options["batch_size"], 3, 64, 64, generator=generator).to(
        device, memory_format=torch.channels_last
    )
    labels = torch.randint(10, (len(images),), generator=generator).to(device)

    def step() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(images), labels))
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    def peak_mb() -> float:
        step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            step()
            return torch.cuda.max_memory_allocated() / 1e6
        momentum = [state["momentum_buffer"] for state in optimizer.state.values()]
        tensors = [images, *model.parameters(), *model.buffers(), *momentum]
        held = most = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
            step()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.json"
            recorded.export_chrome_trace(str(path))
            events = [event for event in json.loads(path.read_text())["traceEvents"] if event["name"] == "[memory]"]
        for event in sorted(events, key=lambda event: float(event["ts"])):
            held += event["args"]["Bytes"]
            most = max(most, held)
        return float(most) / 1e6

    for line in sys.stdin:
        print("answer", {"step": step, "peak_mb": peak_mb}[line.strip()](), flush=True)


if __name__ == "__main__":
    main()
