"""How to train, as plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fbnet_mobile.data.recipe import CROP_AREA
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.recipe import SEEDS, NetworkOptions, build, check, keep_option, option, output_option
from fbnet_mobile.registry import unknown

_NETWORK, _TRAINING, _IMAGES, _TEACHER = "Network", "Training", "Augmentation", "Teacher"
_RECIPES = Path(__file__).with_name("recipes")
RECIPES = tuple(sorted(path.stem for path in _RECIPES.glob("*.yaml")))
"""Names of the recipes that come with the package."""
FINETUNE = "finetune"
"""That for trained weights."""
QUANTIZE = "quantize"
"""That for training with rounding."""
_TRAINED = ("pretrained", "weights", "checkpoint")


@dataclass(frozen=True)
class TrainRecipe:
    """How to train; the defaults suit small mobile networks and tens of epochs.

    The learning rate rises linearly and then falls, both with every step (Loshchilov and Hutter 2017); weight decay is
    on weights but not on biases and batch norm (He et al. 2019); label smoothing after Szegedy et al. 2016, stochastic
    depth after Huang et al. 2016 (rising with the depth), layer-wise learning rates after BEiT (arXiv 2106.08254).

    Attributes are described by the help of their options.
    """

    epochs: int = option(30, group=_TRAINING, low=1, high=100_000, help="Passes over the training images.")
    batch_size: int = option(64, group=_TRAINING, low=1, high=1_000_000, help="Images a step, over all processes.")
    accumulate: int = option(
        1, group=_TRAINING, low=1, high=10_000, help="Parts that a batch is computed in, one after the other."
    )
    optimizer: Literal["sgd", "adamw", "rmsprop"] = option(
        "sgd", group=_TRAINING, help="SGD with Nesterov's momentum, AdamW, or RMSprop in TensorFlow's form (timm's)."
    )
    learning_rate: float = option(
        0.1,
        group=_TRAINING,
        above=0,
        help="At its peak.",
    )
    schedule: Literal["cosine", "step", "exponential"] = option(
        "cosine", group=_TRAINING, help="How the learning rate falls: to zero, in steps, or steadily by a factor."
    )
    decay_epochs: float = option(
        2.4, group=_TRAINING, above=0, help="Epochs in which the schedules step and exponential fall by their factor."
    )
    decay_rate: float = option(0.97, group=_TRAINING, above=0, high=1, help="Factor of these two schedules.")
    warmup_epochs: float = option(
        1.0, group=_TRAINING, low=0, help="Epochs of linear rise to the peak, a fraction too; at most half of all."
    )
    momentum: float = option(
        0.9, group=_TRAINING, low=0, below=1, help="Nesterov's, RMSprop's, or the first beta of AdamW."
    )
    weight_decay: float = option(5e-4, group=_TRAINING, low=0, help="On weights, not on biases and batch norm.")
    clip: float = option(0.0, group=_TRAINING, low=0, help="Largest norm of the gradient; 0 for any.")
    freeze_epochs: int = option(
        0, group=_TRAINING, low=0, help="First epochs, in which only the classifier learns; fewer than all."
    )
    layer_decay: float = option(
        1.0,
        group=_TRAINING,
        above=0,
        high=1,
        help="Factor on the learning rate of a block, for each block that it is before the last.",
    )
    loss: str = option(
        "cross_entropy",
        group=_TRAINING,
        given={"teacher": "distillation"},
        help="What is minimised: cross_entropy, focal, distillation (with a teacher), or a plugin's.",
    )
    class_weights: str = option(
        "",
        group=_TRAINING,
        shown="none",
        help="How much each class counts in the loss: balanced (rare ones more), or a YAML file of a number for each.",
    )
    sampler: Literal["shuffled", "balanced"] = option(
        "shuffled", group=_TRAINING, help="Each image once an epoch, or drawn so that all classes come equally often."
    )
    label_smoothing: float = option(
        0.1, group=_TRAINING, low=0, high=1, help="Share of the target spread over all classes."
    )
    dropout: float = option(
        0.0, group=_TRAINING, low=0, below=1, help="Share of the classifier's inputs that a step leaves out."
    )
    drop_path: float = option(
        0.0,
        group=_TRAINING,
        low=0,
        below=1,
        help="Probability with which a step skips the last residual block; of earlier ones less.",
    )
    ema_decay: float = option(
        0.0,
        group=_TRAINING,
        low=0,
        high=1,
        help="A step, of a moving average of the weights, which is then what is "
        "evaluated and kept; 0 for none. Less in the first steps.",
    )
    batch_norm_images: int = option(
        0,
        group=_TRAINING,
        low=0,
        help="Training images, augmented, from which batch norm's statistics are estimated anew before every "
        "evaluation; 0 for none.",
    )
    seed: int = option(0, group=_TRAINING, low=0, high=SEEDS, help="Of initial weights, order and augmentation.")
    teacher: str = option(
        "",
        group=_TEACHER,
        shown="none; with --quantize that of --checkpoint, without rounding",
        help="Network that the loss learns from: a checkpoint, or timm:NAME or torchvision:NAME with its weights.",
    )
    distillation: Literal["soft", "hard", "logits"] = option(
        "logits",
        group=_TEACHER,
        help="What of the teacher is learnt: its logits themselves, its probabilities (soft), or its answer (hard).",
    )
    distillation_weight: float = option(
        0.5,
        group=_TEACHER,
        low=0,
        high=1,
        help="Share of the teacher's part in the loss distillation; 1 for no use of the labels.",
    )
    distillation_temperature: float = option(
        4.0, group=_TEACHER, above=0, high=1000, help="By which the logits of both are divided for soft."
    )
    augmentations: tuple[str, ...] | None = option(
        None,
        group=_IMAGES,
        commas=True,
        shown="crop,flip; crop for digits and signs",
        help="Random changes of the images, in this order, with commas between: crop, flip, randaugment, "
        "trivialaugment, colour, erase, or a plugin's. A strength may follow, as in randaugment:9.",
    )
    crop_area: float = option(
        CROP_AREA,
        group=_IMAGES,
        low=0.01,
        high=1,
        help="Least share of an image that a crop keeps, from 64 pixels on, where crop has no strength of its own.",
    )
    mixup: float = option(
        0.0,
        group=_IMAGES,
        low=0,
        high=10,
        help="Parameter of the Beta distribution by which images are mixed; 0: none.",
    )
    cutmix: float = option(
        0.0, group=_IMAGES, low=0, high=10, help="Likewise of the part that is pasted from another image; 0 for none."
    )
    mix_epochs: float = option(
        1.0, group=_IMAGES, low=0, high=1, help="Share of the epochs, from the first on, that mix images."
    )
    repeats: int = option(
        1,
        group=_IMAGES,
        low=1,
        high=100,
        help="How often an image is in an epoch, changed anew, of as many fewer images.",
    )
    train_resolution: int | None = option(
        None,
        group=_IMAGES,
        low=8,
        high=10_000,
        shown="the network's",
        help="Pixels of the training images; evaluation is at the network's.",
    )

    def __post_init__(self) -> None:
        """Refuse impossible values.

        Raises:
            UserError: one of them is.
        """
        check(self)
        if self.batch_size % self.accumulate:
            raise UserError(
                f"a batch of {self.batch_size} images has no {self.accumulate} equal parts; "
                "give an accumulate that divides batch_size"
            )

    @property
    def frozen_epochs(self) -> int:
        """Epochs that train the classifier alone; at least one trains all."""
        return min(self.freeze_epochs, self.epochs - 1)

    def learning_rate_at(self, epoch: float) -> float:
        """Learning rate after ``epoch`` epochs, fractions of them included."""
        warmup = min(self.warmup_epochs, self.epochs / 2)
        if epoch < warmup:
            return self.learning_rate * epoch / warmup
        if self.schedule == "cosine":
            return self.learning_rate * (1 + math.cos(math.pi * (epoch - warmup) / (self.epochs - warmup))) / 2
        falls = (epoch - warmup) / self.decay_epochs
        if self.schedule == "step":
            falls = math.floor(falls + 1e-9)  # the last step of an epoch is at its end
        return float(self.learning_rate * self.decay_rate**falls)


def with_recipe(given: Mapping[str, Any], *, inherits_trained: bool = False) -> dict[str, Any]:
    """Options with those of the recipe that they name, behind them: what is given itself counts first.

    Trained weights are trained on by :data:`FINETUNE` where no recipe is named, not even an empty one; so are those
    that a search within a trained network leaves; with rounding by :data:`QUANTIZE`. That learns from itself without
    (quantization-aware distillation, arXiv 2601.20088) where neither a teacher nor a loss is named.

    Args:
        given: by name.
        inherits_trained: whether the search that they inherit from was within a trained network.

    Raises:
        UserError: there is no such recipe, or it holds what is no option of training.
    """
    trained = inherits_trained or any(given.get(name) for name in _TRAINED)
    name = given.get("recipe", QUANTIZE if given.get("quantize") else FINETUNE if trained else "")
    whole = {**read_recipe(str(name)), **given, "recipe": name} if name else dict(given)
    if whole.get("quantize") and whole.get("checkpoint") and not whole.keys() & {"teacher", "loss"}:
        whole["teacher"] = str(whole["checkpoint"])
    return whole


def read_recipe(name: str) -> dict[str, Any]:
    """The options of a recipe: one of ``RECIPES``, or a YAML file.

    Raises:
        UserError: there is none, it is no YAML, or a value cannot be.
    """
    from fbnet_mobile.documents import parse_yaml
    from fbnet_mobile.files import read_text

    path = _RECIPES / f"{name}.yaml" if name in RECIPES else Path(name)
    if name not in RECIPES and not path.suffix and not path.exists():
        raise UserError(f"{unknown('recipe', name, RECIPES)}, or a YAML file")
    content = parse_yaml(read_text(path), str(path))
    if not isinstance(content, dict):
        raise UserError(f"{shown(path)} holds no options of training; write lines such as epochs: 30")
    values = {str(key).replace("-", "_"): value for key, value in content.items()}
    try:
        build(TrainRecipe, values)
    except UserError as error:
        raise UserError(f"{shown(path)}: {error}") from error
    return values


@dataclass(frozen=True, kw_only=True)
class TrainTask:
    """What is trained."""

    network: NetworkOptions
    quantize: Literal["int8"] | None = option(
        None,
        group=_NETWORK,
        shown="none",
        help="Train --checkpoint on with weights and activations rounded as in an int8 file, for one that loses too "
        "much without. Ranges are learned, and fbnet-export takes them from the checkpoint.",
    )
    int8_keep: str = keep_option(group=_NETWORK)
    resolution: int | None = option(
        None, group=_NETWORK, low=1, high=8192, shown="the network's", help="Pixels a side of its input."
    )
    output: Path = output_option(group=_NETWORK, help="Folder of the run.")
    inherit: Path | None = option(
        None,
        group=_NETWORK,
        shown="random weights",
        help="Start from the supernet's weights: the folder of the search that found the architecture.",
    )
    save_minutes: float = option(
        5.0, group=_NETWORK, low=0, help="After how long the state is kept within an epoch, to continue from."
    )
    unlabelled: Path | None = option(
        None,
        group="Images",
        shown="none",
        help="Folder of more images, without classes, on which the teacher is followed too.",
    )
    recipe: str = option(
        "",
        group=_TRAINING,
        known="recipe",
        shown="quantize with --quantize, finetune from --pretrained, --weights, --checkpoint, or --inherit of a search "
        "--within, else none",
        help=f"Options of training by name: {', '.join(RECIPES)}, or a YAML file; those given here count before it.",
    )
    compile: bool = option(
        False, group=_TRAINING, help="Compile the network with torch.compile: minutes at first, faster steps after."
    )
