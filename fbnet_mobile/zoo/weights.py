"""Files of weights that others saved, read without running anything that they hold."""

import argparse
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.formats.packages import needs

_WITHIN = ("model_ema", "state_dict_ema", "state_dict", "model")
"""Under which a training keeps the weights beside its own state, the average before the weights themselves."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The weights by name in a file of PyTorch's or of safetensors, on the CPU.

    A moving average of the weights, if there is one too, is what is given, being what was meant to be used. What
    parallel training puts before every name (``module.``) is taken off.

    Raises:
        UserError: the file is missing, damaged, no such file, or holds anything but tensors under names.
    """
    name = shown(path)
    if not path.is_file():
        raise UserError(f"cannot read {name}: {'it is a folder' if path.is_dir() else 'No such file or directory'}")
    try:
        if path.suffix == ".safetensors":
            with needs("safetensors", "fbnet-mobile[timm]"):
                from safetensors.torch import load_file
            content: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                # The trainings of timm and torchvision keep their options beside the weights, as plain values.
                with torch.serialization.safe_globals([argparse.Namespace]):
                    content = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or 'not a checkpoint'}") from error
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{name} is no checkpoint, or holds Python objects that could run code, which are never loaded; save its "
            "state_dict alone"
        ) from error
    except Exception as error:  # whatever the readers trip over in a damaged file
        raise UserError(f"{name} is damaged or no checkpoint") from error
    if isinstance(content, Mapping) and str(content.get("format", "")).startswith("fbnet-mobile checkpoint"):
        raise UserError(
            f"{name} is a checkpoint that fbnet-train wrote, which brings its network; give it without --model "
            "(--checkpoint)"
        )
    for key in _WITHIN:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{name} does not hold the weights of one network; save its state_dict alone")
    return {str(key).removeprefix("module."): value for key, value in content.items()}
