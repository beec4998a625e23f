"""Which mobile networks can be exported to what? Those of torchvision and timm, in every format, and how long it takes.

    python benchmarks/export_matrix.py -o runs/export_matrix
    python benchmarks/export_matrix.py -o runs/export_matrix --precisions fp16 --formats onnx tflite
    python benchmarks/export_matrix.py -o runs/export_matrix --features

Each network is exported at its own resolution, with random weights of which the output depends on every one, and run
in the format's runtime on an input. It is ``right`` if it differs from PyTorch by no more than the default tolerance
of ``fbnet-export`` (int8, whose error depends on the network, by a quarter of the largest logit), ``lossy`` if by no
more than twice what PyTorch loses when it rounds all weights and values to that precision (all of it where a divisor
becomes zero; Core ML's int8 is of the weights alone, and its values are rounded to fp16), ``refused`` if the export
says by name which operation it has not, and ``wrong`` otherwise. ``fbnet-export`` keeps no lossy fp16 file by default,
and an int8 one by its answers on real images. Random networks lose more than trained ones, and int8 has the ranges
that were seen here and nothing in float32, whatever an export would choose. Shown as well is how far PyTorch's logits
are apart between the inputs; were that small, agreement would prove nothing.

With ``--features`` it is the networks' feature maps, all that timm's ``features_only`` has of each, and of some of ours
one for each stride; a file is right if every one of them is.

With ``--peers`` the same modules are exported by ``litert_torch.convert`` and ``torch.onnx.export(dynamo=True)`` too,
in turns with ours, and the seconds of each are shown (``--repeats``; the median); ``--peer-python`` names the Python
that has litert-torch, if it is another.

What is done is kept in the folder and not done again. Prints a table and writes results.json. The exit code is 1 if a
file is wrong, or fewer than 90 networks are right in all formats in fp32.
"""

import argparse
import copy
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from calibrated import calibrated
from results_file import write_results
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fbnet_mobile.blocks.network import build as build_ours
from fbnet_mobile.errors import FbnetError, UserError
from fbnet_mobile.formats.base import FORMATS, get_format, write
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.trace import named_outputs, trace
from fbnet_mobile.zoo import load_network
from fbnet_mobile.zoo.features import backbone
from fbnet_mobile.zoo.peers import load_peer

NETWORKS = {
    "torchvision": """
        mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5 mnasnet1_0 shufflenet_v2_x0_5 shufflenet_v2_x1_0
        squeezenet1_0 squeezenet1_1 efficientnet_b0 efficientnet_v2_s regnet_y_400mf regnet_x_400mf resnet18 resnet50
        densenet121 googlenet inception_v3 alexnet vgg11_bn convnext_tiny swin_t swin_v2_t vit_b_16 maxvit_t
    """,
    "timm": """
        mobilenetv1_100 mobilenetv2_100 mobilenetv3_small_100 mobilenetv3_large_100 mobilenetv4_conv_small
        mobilenetv4_conv_blur_medium mobilenetv4_hybrid_medium mobilenet_edgetpu_v2_xs efficientnet_lite0
        efficientnet_es tf_efficientnet_b0 tf_efficientnetv2_b0 fbnetc_100 fbnetv3_b spnasnet_100 mnasnet_small
        semnasnet_100 hardcorenas_a lcnet_050 tinynet_e ghostnet_050 ghostnet_100 ghostnetv2_100 ghostnetv3_050
        mixnet_s rexnet_100 rexnetr_100 repvgg_a0 mobileone_s0 repghostnet_050 gernet_s regnety_002 selecsls42b
        hgnetv2_b0 ese_vovnet19b_dw hrnet_w18_small dla34 resnet10t resnet18d ecaresnet26t cs3darknet_s fasternet_t0
        starnet_s1 repvit_m0_9 mobilevit_xxs mobilevit_s mobilevitv2_050 efficientformer_l1 efficientformerv2_s0
        efficientvit_b0 efficientvit_m0 levit_128s levit_conv_128s edgenext_xx_small edgenext_small tiny_vit_5m_224
        fastvit_t8 fastvit_sa12 swiftformer_xs shvit_s1 convnext_atto convnextv2_atto poolformer_s12
        inception_next_atto pvt_v2_b0 deit_tiny_patch16_224 pit_ti_224 xcit_nano_12_p16_224 coat_lite_tiny
        visformer_tiny mambaout_femto nextvit_small
    """,
}
"""97 of them: each family of mobile networks in one or two sizes, and what people export beside them."""
OURS = ("fbnetv2-f1", "fbnetv2-l1", "dmasking-f4", "fbnet-c")
"""Of our own, for their feature maps."""
ENOUGH = 90
TOLERANCES = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.25}
PLAIN = {"ranges": "min-max", "keep": ()}
"""Of int8: what is looked at is the file, and choosing by calibration would take most of the time."""
WEIGHT_BITS = {"onnx": 7}
_INPUTS = 2
"""That PyTorch's results are compared between; files run on the first alone, as evaluating Core ML's takes long."""
PACKAGES = ("timm", "torchvision", "onnx", "onnxruntime", "ai-edge-litert", "litert-converter", "coremltools")


def main() -> None:
    """Export, compare and report."""
    everything = [f"{library}:{name}" for library, names in NETWORKS.items() for name in names.split()]
    of_timm = [name for name in everything if name.startswith("timm:")]
    parser = argparse.ArgumentParser(description="Export the mobile networks of torchvision and timm to every format.")
    parser.add_argument("--networks", nargs="+", default=everything, help="library:name (default: 97 of them)")
    parser.add_argument("--formats", nargs="+", default=["tflite", "onnx", "coreml"], choices=list(FORMATS))
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=list(TOLERANCES))
    parser.add_argument("--features", action="store_true", help="feature maps in the place of logits")
    parser.add_argument("--peers", action="store_true", help="time the exports of litert-torch and torch.onnx, too")
    parser.add_argument("--peer-python", default=sys.executable, help="the Python that has litert-torch")
    parser.add_argument("--repeats", type=int, default=3, help="exports by each side, with --peers (default: 3)")
    parser.add_argument("--seconds", type=float, help="stop after as many, to go on with another time")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of what is done, and of results.json")
    options = parser.parse_args()
    if options.features:
        options.networks = [name for name in options.networks if not name.startswith("torchvision:")]
        options.networks += [f"ours:{name}" for name in OURS] if options.networks == of_timm else []
        if "int8" in options.precisions:
            parser.error("int8 is judged by one result; take fp32 or fp16 with --features")
    torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    kept = options.output / "rows.json"
    rows: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    start = time.monotonic()
    for key, make in jobs(options):
        if key in rows:
            continue
        if options.seconds is not None and time.monotonic() - start > options.seconds:
            print("stopped; run it again to go on")
            return
        rows[key] = {**make(), "key": key}
        print(line(rows[key]), flush=True)
        kept.write_text(json.dumps(rows, indent=1))
    sys.exit(not report(rows, options))


def jobs(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """What there is to do, under the name that it is kept by."""
    for name in options.networks:
        built = cache(partial(build, name, options.features))
        for precision in options.precisions:
            for format_ in options.formats:
                yield key_of(name, format_, precision, options), partial(compared, built, format_, precision)
        for format_ in options.formats if options.peers else ():
            if format_ in PEERS:
                yield f"{name} {format_} peer", partial(raced, name, built, format_, options)


def key_of(name: str, format_: str, precision: str, options: argparse.Namespace) -> str:
    """What a file's row is kept under."""
    return f"{name} {format_} {precision}" + (" features" if options.features else "")


Shape = tuple[int, int, int, int]
Built = tuple[nn.Module, Shape, float]


def build(name: str, features: bool) -> Built:
    """A network of random weights, its input's shape, and how far its results are apart between inputs."""
    torch.manual_seed(0)
    module, shape = feature_maps(name) if features else load_peer(name)[:2]
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        # What starts as a constant is moved, and what starts next to nothing, as the scale of a branch, made larger.
        if parameter.numel() > 1 and float(parameter.data.std()) == 0:
            parameter.data.add_(0.1 * torch.rand(parameter.shape, generator=generator))
    calibrated(module, shape[1], shape[2:])
    inputs = torch.from_numpy(images(shape))
    with torch.no_grad():
        results = named_outputs(module(inputs)).values()
    return module, shape, min(float((each - each[:1]).abs().max() / each.abs().max()) for each in results)


def feature_maps(name: str) -> tuple[nn.Module, Shape]:
    """A network that gives all feature maps that there are, and its input's shape."""
    library, _, own = name.partition(":")
    if library == "timm":
        found: Any = timm.create_model(own, features_only=True).feature_info
        return load_peer(name, features=found.module_name())[:2]
    network = load_network(own)
    strides = np.cumprod([block.stride for block in network.blocks[:-1]])
    maps = [f"stride{stride}" for stride in sorted({*map(int, strides)})]
    return backbone(network, build_ours(network), maps), network.input_shape


def images(shape: Shape) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What files are compared on."""
    return np.random.default_rng(0).standard_normal((_INPUTS, *shape[1:]), np.float32)


def compared(built: Callable[[], Built], format_: str, precision: str) -> dict[str, Any]:
    """Export a network and say what came of it."""
    module, shape, between = built()
    asked = {"format": format_, "precision": precision}
    whole = precision != "int8" or get_format(format_).calibrates(precision)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{get_format(format_).suffix}"
        try:
            found = export(
                module,
                path,
                format=format_,
                input_shape=shape,
                inputs=images(shape)[:1],
                precision=precision,
                calibration=images(shape),
                tolerance=float("inf"),
                min_agreement=0,
                options=PLAIN if precision == "int8" and whole else None,
            )
        except UserError as error:
            return {**asked, "outcome": "refused", "why": str(error)}
        except FbnetError as error:
            return {**asked, "outcome": "wrong", "why": str(error)}
    maps = {output: relative for output, (_, relative) in found.outputs.items()}
    lost = 0.0
    if found.relative_difference > TOLERANCES[precision]:
        values = precision if whole else "fp16"
        lost = max(lost_by_rounding(module, shape, precision, values, WEIGHT_BITS.get(format_, 8)).values())
    return {
        **asked,
        "outcome": judged(found.relative_difference, precision, lost),
        "relative_difference": found.relative_difference,
        **({"maps": maps} if len(maps) > 1 else {}),
        **({"lost_by_rounding": lost} if lost else {}),
        "between_inputs": between,
        "size_bytes": found.size,
        "seconds": found.seconds,
    }


def judged(relative: float, precision: str, lost: float) -> str:
    """What a difference from PyTorch says of a file."""
    if relative <= TOLERANCES[precision]:
        return "right"
    return "lossy" if relative <= 2 * lost else "wrong"


class Rounding(TorchFunctionMode):
    """What PyTorch's functions give is rounded to a precision."""

    def __init__(self, precision: str) -> None:
        super().__init__()
        self.precision = precision

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """See the class."""
        found = function(*args, **(kwargs or {}))
        return rounded(found, self.precision) if isinstance(found, Tensor) and found.is_floating_point() else found


def rounded(values: Tensor, precision: str, axes: tuple[int, ...] | None = None, bits: int = 8) -> Tensor:
    """In float16, or on levels from the smallest to the largest, of all or over some of the axes."""
    if precision == "fp32" or not values.numel():
        return values
    if precision == "fp16":
        return values.half().float()
    axes = tuple(range(values.ndim)) if axes is None else axes
    low, high = values.amin(axes, keepdim=True).clamp(max=0), values.amax(axes, keepdim=True).clamp(min=0)
    step = ((high - low) / (2**bits - 1)).clamp_min(1e-12)
    result: Tensor = (values / step).round() * step
    return result


def lost_by_rounding(
    module: nn.Module, shape: Shape, precision: str, values: str, weight_bits: int
) -> Mapping[str, float]:
    """How far PyTorch's results are, relative to the largest, from those with all weights and values rounded.

    Args:
        module: the network.
        shape: its input's.
        precision: of the weights.
        values: precision of what is computed.
        weight_bits: of an int8 weight, as the format has it.
    """
    inputs = torch.from_numpy(images(shape)[:1])
    coarse = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in coarse.parameters():
            if precision == "fp16" or parameter.ndim > 1:  # biases have more than eight bits
                parameter.data = rounded(parameter.data, precision, tuple(range(1, parameter.ndim)), weight_bits)
        exact = named_outputs(module(inputs))
        with Rounding(values):
            found = named_outputs(coarse(inputs))
    off = {name: float((found[name] - each).abs().max() / each.abs().max()) for name, each in exact.items()}
    return {name: value if math.isfinite(value) else 1.0 for name, value in off.items()}


_LITERT_TORCH = """
import sys, time, torch, warnings, logging
warnings.simplefilter("ignore"); logging.disable()
sys.path[:0] = sys.argv[4:]
from pathlib import Path
import litert_torch
torch.set_num_threads(1)
small = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Hardswish(), torch.nn.Flatten()).eval()
litert_torch.convert(small, (torch.zeros(1, 3, 8, 8),)).export(sys.argv[3])
library, name = sys.argv[1].split(":")
if library == "timm":
    import timm
    module = timm.create_model(name)
else:
    from torchvision import models
    module = models.get_model(name, weights=None)
shape = tuple(map(int, sys.argv[2].split(",")))
start = time.perf_counter()
litert_torch.convert(module.eval(), (torch.zeros(shape),)).export(sys.argv[3])
print("seconds", time.perf_counter() - start)
"""


def litert_torch(name: str, module: nn.Module, shape: Shape, path: Path, options: argparse.Namespace) -> float:
    """Seconds of litert-torch, in a process of its own, after it has loaded what it needs."""
    sizes = ",".join(map(str, shape))
    done = subprocess.run(
        [options.peer_python, "-c", _LITERT_TORCH, name, sizes, str(path)], capture_output=True, text=True, check=False
    )
    found = [text.split()[1] for text in done.stdout.splitlines() if text.startswith("seconds ")]
    if not found:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no reason given"])[-1])
    return float(found[0])


def torch_onnx(name: str, module: nn.Module, shape: Shape, path: Path, options: argparse.Namespace) -> float:
    """Seconds of torch.onnx's exporter on torch.export."""
    start = time.perf_counter()
    torch.onnx.export(module, (torch.zeros(shape),), path, dynamo=True, verbose=False)
    return time.perf_counter() - start


PEERS = {"tflite": litert_torch, "onnx": torch_onnx}
"""Of each format: the other's export."""


def raced(name: str, built: Callable[[], Built], format_: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds that our export, without and with its check, and the other's take, in turns."""
    module, shape, _ = built()
    seconds: dict[str, list[float]] = {"ours": [], "checked": [], "peer": []}
    why = ""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"network{get_format(format_).suffix}"
        for _ in range(options.repeats):
            start = time.perf_counter()
            write(trace(module, shape), path, format_)
            seconds["ours"].append(time.perf_counter() - start)
            start = time.perf_counter()
            export(module, path, format=format_, input_shape=shape, inputs=images(shape)[:1])
            seconds["checked"].append(time.perf_counter() - start)
            if not why:
                try:
                    peer = Path(folder) / "peer" / path.name
                    peer.parent.mkdir(exist_ok=True)
                    seconds["peer"].append(PEERS[format_](name, module, shape, peer, options))
                except Exception as error:  # whatever another's export stumbles over
                    why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    medians = {f"{side}_seconds": statistics.median(found) for side, found in seconds.items() if found}
    return {"format": format_, "outcome": "timed", **medians, **({"peer_fails": why} if why else {})}


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    if row["outcome"] == "timed":
        shown = " ".join(
            f"{side} {row[key]:.2f} s" for side in ("ours", "checked", "peer") if (key := f"{side}_seconds") in row
        )
        return f"{row['key']:55} {shown} {row.get('peer_fails', '')}"
    if "why" in row:
        return f"{row['key']:55} {row['outcome']:8} {row['why']}"
    differs = f"differs by {row['relative_difference']:.1e}, between inputs {row['between_inputs']:.2f}"
    if "maps" in row:
        differs = f"{len(row['maps'])} maps, the worst {differs}"
    if "lost_by_rounding" in row:
        differs += f", PyTorch's rounding {row['lost_by_rounding']:.1e}"
    return f"{row['key']:55} {row['outcome']:8} {differs}, {row['seconds']:.1f} s"


def report(rows: dict[str, dict[str, Any]], options: argparse.Namespace) -> bool:
    """Print what came of it all and write it; whether it is good."""
    wrong, full = 0, True
    for precision in options.precisions:
        outcomes = {
            name: [rows[key_of(name, format_, precision, options)]["outcome"] for format_ in options.formats]
            for name in options.networks
        }
        everywhere = sum(set(found) == {"right"} for found in outcomes.values())
        counts = Counter(outcome for found in outcomes.values() for outcome in found)
        wrong += counts["wrong"]
        full &= precision != "fp32" or everywhere >= min(ENOUGH, len(outcomes))
        print(
            f"{precision}: {everywhere} of {len(outcomes)} networks right in {', '.join(options.formats)}; files: "
            + ", ".join(f"{counts[outcome]} {outcome}" for outcome in ("right", "lossy", "refused", "wrong"))
        )
        if options.features:
            found_maps = [
                relative
                for name in options.networks
                for format_ in options.formats
                for relative in rows[key_of(name, format_, precision, options)].get("maps", {}).values()
            ]
            right = sum(relative <= TOLERANCES[precision] for relative in found_maps)
            print(f"{precision}: {right} of {len(found_maps)} feature maps right, each compared by itself")
    write_results(options.output / "results.json", {"rows": list(rows.values())}, options, PACKAGES)
    return full and not wrong


if __name__ == "__main__":
    main()
