"""Training one network, continued where it was interrupted."""

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from fbnet_mobile.data.augment import AUGMENTATIONS
from fbnet_mobile.data.data import Data, training_batches
from fbnet_mobile.engine.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from fbnet_mobile.engine.loop import Means, Task, load_optimizer, run_epochs
from fbnet_mobile.engine.losses import make_loss
from fbnet_mobile.engine.processes import in_first_process
from fbnet_mobile.engine.run_folder import RunFolder, data_settings
from fbnet_mobile.graph.rounded import Rounded
from fbnet_mobile.train.average import moving_average
from fbnet_mobile.train.evaluate import evaluate
from fbnet_mobile.train.recipe import TrainRecipe
from fbnet_mobile.train.results import EpochResult, Trained

CHECKPOINT = "best.pt"


def train(
    module: nn.Module,
    data: Data,
    recipe: TrainRecipe,
    out_dir: Path,
    fabric: Fabric,
    *,
    architecture: str,
    initial_weights: str = "random",
    show_progress: bool = True,
) -> Trained:
    """Train ``module``, or continue where an earlier run in ``out_dir`` stopped.

    After every epoch the folder holds ``last.pt`` (what is needed to continue), ``best.pt`` (the
    ``Checkpoint`` of the best validation accuracy so far) and ``log.csv`` (an ``EpochResult`` a line). A run
    that was stopped at any moment goes through the same losses as one that was not, on a CPU with as many
    threads; a run that had finished is not trained again. The test images are looked at once, at the very
    end.

    Batch norm statistics are each process's own. The state of every process is that of the first one, so
    strategies that shard parameters (FSDP) are not supported.

    Args:
        module: the network: (B, 3, R, R) float32 images to (B, classes) logits. Ends with the best epoch's
            weights.
        data: the images.
        recipe: how to train.
        out_dir: folder of the run; made if it is not there.
        fabric: where to train and at which precision; already launched.
        architecture: the network's architecture as YAML text, kept in the checkpoint.
        initial_weights: where the module's weights come from; a run that began from others is not continued.
        show_progress: whether to draw a bar, if stderr is a terminal, and write a line per epoch.

    Raises:
        UserError: ``out_dir`` holds a run with other settings, the data do not fill a batch, an augmentation is
            not known, or the teacher is not one for these classes.
        JobError: the loss stopped being a finite number, memory or disk ran out (what was good stays in ``out_dir``),
            or another process works there.
    """
    for name in recipe.augmentations or ():
        AUGMENTATIONS.get(name)  # refused before there is a folder
    run = _Training(module, data, recipe, out_dir / CHECKPOINT, fabric, architecture)
    settings = {
        **asdict(recipe),
        **data_settings(data),
        "architecture": architecture,
        "initial weights": initial_weights,
        "teacher": run.teacher.digest if run.teacher else "",
        "precision": str(fabric.strategy.precision.precision),
    }
    folder = RunFolder(out_dir, "training", settings, EpochResult, fabric, results=[CHECKPOINT])
    with folder:
        folder.resume(run.load_state_dict, run.state_dict)
        first_epoch = len(folder.history) + 1
        run.best = max((row.val_accuracy for row in folder.history), default=-1.0)
        run_epochs(run, folder, show_progress=show_progress)
        best = run.finish()
    assert best.test_accuracy is not None
    return Trained(out_dir / CHECKPOINT, best.val_accuracy, best.test_accuracy, tuple(folder.history), first_epoch)


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights of two and more dimensions with weight decay; biases and batch norm without (He et al. 2019)."""
    parameters = [item for item in module.parameters() if item.requires_grad]
    return [
        {"params": [item for item in parameters if item.ndim > 1], "weight_decay": weight_decay},
        {"params": [item for item in parameters if item.ndim <= 1], "weight_decay": 0.0},
    ]


class _Training(Task[EpochResult]):
    title = "training"

    def __init__(
        self, module: nn.Module, data: Data, recipe: TrainRecipe, checkpoint: Path, fabric: Fabric, architecture: str
    ) -> None:
        self.epochs, self.batch_size, self.seed = recipe.epochs, recipe.batch_size, recipe.seed
        self.steps, self.learning_rate = data.train.steps(recipe.batch_size), recipe.learning_rate
        self.images = f"{data.resolution} x {data.resolution} pixels"
        self.data, self.recipe, self.fabric = data, recipe, fabric
        self.architecture, self.checkpoint, self.best = architecture, checkpoint, -1.0
        self.loss, self.teacher = make_loss(recipe, data, fabric)

        self.module = module.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            parameter_groups(module, recipe.weight_decay),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
        )
        self.parallel, self.optimizer = fabric.setup(module, self.optimizer)
        self.average = moving_average(module, recipe.ema_decay) if recipe.ema_decay else None
        self.means = Means(fabric, 2)

    def run(self, epoch: int) -> Iterator[None]:
        """See ``Task``."""
        recipe, fabric = self.recipe, self.fabric
        batches = training_batches(
            self.data.train,
            self.data,
            recipe.batch_size,
            seed=recipe.seed,
            epoch=epoch,
            device=fabric.device,
            augmentations=recipe.augmentations,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        self.parallel.train()
        self.means = Means(fabric, 2)
        for step, (images, labels) in enumerate(batches, start=1):
            rate = recipe.learning_rate_at(epoch - 1 + step / self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            logits = self.parallel(images)
            loss = self.loss(logits, labels, images, self.teacher)
            fabric.backward(loss)
            self.optimizer.step()
            if self.average:
                self.average.update_parameters(self.module)
            self.means.add(loss.detach(), (logits.detach().argmax(1) == labels).float().mean())
            yield

    def losses(self) -> list[float]:
        """See ``Task``."""
        self.loss_now, self.accuracy_now = self.means.read() or (0.0, 0.0)
        return [self.loss_now]

    def note(self) -> str:
        """See ``Task``."""
        return f"loss {self.loss_now:.3f} accuracy {self.accuracy_now:.1%}"

    @property
    def evaluated(self) -> nn.Module:
        """What is evaluated and kept: the moving average if there is one."""
        return self.average.module if self.average else self.module

    def row(self, epoch: int, started: float) -> EpochResult:
        """Evaluate; see ``Task``."""
        if self.fabric.world_size > 1:
            for buffer in self.evaluated.buffers():
                buffer.copy_(self.fabric.broadcast(buffer))
        accuracy = evaluate(self.evaluated, self.data.val, self.data, fabric=self.fabric)
        rate = float(self.optimizer.param_groups[0]["lr"])
        return EpochResult(epoch, rate, self.loss_now, self.accuracy_now, accuracy, time.monotonic() - started)

    def write(self, row: EpochResult) -> None:
        """Keep the checkpoint of the best epoch."""
        if row.val_accuracy > self.best:
            self._save(self.evaluated, row.val_accuracy)
            self.best = row.val_accuracy

    def _save(self, module: nn.Module, val_accuracy: float, test_accuracy: float | None = None) -> None:
        checkpoint = Checkpoint(
            architecture=self.architecture,
            state_dict={name: value.detach().cpu() for name, value in module.state_dict().items()},
            classes=self.data.classes,
            mean=self.data.mean,
            std=self.data.std,
            resolution=self.data.resolution,
            val_accuracy=val_accuracy,
            test_accuracy=test_accuracy,
            recipe=asdict(self.recipe),
            quantized="int8" if isinstance(module, Rounded) else "",
        )
        save_checkpoint(self.checkpoint, checkpoint)

    def line(self, row: EpochResult) -> str:
        """See ``Task``."""
        return (
            f"loss {row.train_loss:.3f}, train accuracy {row.train_accuracy:.1%}, "
            f"validation accuracy {row.val_accuracy:.1%}"
        )

    def state_dict(self) -> dict[str, Any]:
        """See ``Task``."""
        return {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Task``."""
        self.module.load_state_dict(state["module"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])

    def finish(self) -> Checkpoint:
        """Load the best weights into the module, and measure them on the test images if not done before."""
        best = load_checkpoint(self.checkpoint)
        self.module.load_state_dict(best.state_dict)
        if best.test_accuracy is None:
            accuracy = evaluate(self.module, self.data.test, self.data, fabric=self.fabric)
            in_first_process(self.fabric, lambda: self._save(self.module, best.val_accuracy, accuracy))
            best = load_checkpoint(self.checkpoint)
        return best
