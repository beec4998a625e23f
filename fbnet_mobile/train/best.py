"""The checkpoint of the best epoch, and what the test images say of it in the end."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lightning_fabric import Fabric
from torch import nn

from fbnet_mobile.data.data import Data
from fbnet_mobile.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fbnet_mobile.engine.processes import in_first_process
from fbnet_mobile.graph.rounded import Rounded
from fbnet_mobile.train.evaluate import answers
from fbnet_mobile.train.pictures import draw_curves, write_evaluation
from fbnet_mobile.train.recipe import TrainRecipe
from fbnet_mobile.train.results import EpochResult

CURVES = "curves.png"


class BestEpoch:
    """A file that holds the best network of a training so far.

    That is the last one whose accuracy on the validation images is within one standard error of the highest (Breiman et
    al. 1984, section 3.4.3, for trees): a smaller difference is chance, and the later of two has learned at a lower
    rate.

    Args:
        path: of the ``Checkpoint``.
        architecture: the network's, as YAML text.
        data: what it is trained on.
        recipe: how.

    Attributes:
        path: of the file.
        highest: accuracy of an epoch on the validation images, 0 to 1; 0 while there is none.
    """

    def __init__(self, path: Path, architecture: str, data: Data, recipe: TrainRecipe) -> None:
        self.path, self.highest = path, 0.0
        self._architecture, self._data, self._recipe = architecture, data, recipe

    def offer(self, module: nn.Module, val_accuracy: float) -> None:
        """Keep a network of this accuracy on the validation images if none before it was better by more than chance.

        Raises:
            FbnetError: the file cannot be written.
        """
        self.highest = max(self.highest, val_accuracy)
        standard_error = math.sqrt(self.highest * (1 - self.highest) / len(self._data.val))
        if val_accuracy >= self.highest - standard_error:
            self._save(module, val_accuracy)

    def test(self, module: nn.Module, fabric: Fabric, history: Sequence[EpochResult], *, pictures: bool) -> Checkpoint:
        """Load the best weights into a module, and measure them on the test images if that was not done before.

        Args:
            module: that was trained.
            fabric: of all the processes, each of which must ask.
            history: every epoch, for the curves.
            pictures: whether the file's folder gets ``evaluation.json``, the curves, the confusion matrix and the
                worst mistakes.

        Raises:
            FbnetError: a file cannot be read or written.
        """
        best = load_checkpoint(self.path)
        module.load_state_dict(best.state_dict)
        if best.test_accuracy is None:
            in_first_process(fabric, lambda: self._test(module, best.val_accuracy, history if pictures else None))
            best = load_checkpoint(self.path)
        return best

    def _test(self, module: nn.Module, val_accuracy: float, drawn: Sequence[EpochResult] | None) -> None:
        data = self._data
        logits, labels = answers(module, data.test, data)
        if drawn is not None:
            from fbnet_mobile.train.metrics import measure  # seconds, for torchmetrics

            draw_curves(self.path.with_name(CURVES), drawn)
            write_evaluation(self.path.parent, measure(logits, labels, data.classes, data.test.names()), data.test)
        self._save(module, val_accuracy, float((logits.argmax(1) == labels).double().mean()))

    def _save(self, module: nn.Module, val_accuracy: float, test_accuracy: float | None = None) -> None:
        checkpoint = Checkpoint(
            architecture=self._architecture,
            state_dict={name: value.detach().cpu() for name, value in module.state_dict().items()},
            classes=self._data.classes,
            mean=self._data.mean,
            std=self._data.std,
            resolution=self._data.resolution,
            val_accuracy=val_accuracy,
            test_accuracy=test_accuracy,
            recipe=asdict(self._recipe),
            quantized="int8" if isinstance(module, Rounded) else "",
            kept=module.kept if isinstance(module, Rounded) else (),
        )
        save_checkpoint(self.path, checkpoint)
