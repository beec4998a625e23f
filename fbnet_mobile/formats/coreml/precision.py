"""Core ML in fp16 and int8, by coremltools.

See https://apple.github.io/coremltools/docs-guides/source/opt-quantization-api.html.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnet_mobile.formats.coreml.write import half, save
from fbnet_mobile.formats.packages import quiet

with quiet():
    from coremltools.optimize import coreml as optimize

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Images = NDArray[Any]


def fp16(source: Path, images: Images, target: Path) -> None:
    """Store and compute in 16-bit floats."""
    save(half(source), target)


def int8(source: Path, images: Images, target: Path) -> None:
    """Quantise the weights alone. The file is for iOS 16 and later, which is where Core ML reads such weights."""
    # Every weight, however small: the default leaves those of fewer than 2048 numbers alone.
    weights = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", granularity="per_channel", weight_threshold=0)
    settings = optimize.OptimizationConfig(global_config=weights)
    save(half(source, lambda package: optimize.linear_quantize_weights(package, settings)), target)
