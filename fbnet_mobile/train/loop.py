"""Training one network, continued where it was interrupted, and measuring the accuracy of any."""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric, seed_everything
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from fbnet_mobile import __version__
from fbnet_mobile.data.augment import AUGMENTATIONS, derive_seed, normalise
from fbnet_mobile.data.data import Data, Split, training_batches
from fbnet_mobile.engine.allocator import tune_allocator
from fbnet_mobile.engine.checkpoint import (
    Checkpoint,
    load_checkpoint,
    read_tensors,
    save_checkpoint,
    write_tensors,
)
from fbnet_mobile.engine.progress import ProgressBar
from fbnet_mobile.errors import JobError, UserError
from fbnet_mobile.files import write_whole
from fbnet_mobile.train.recipe import TrainRecipe

_STATE_FORMAT = "fbnet-mobile training state 1"
_REPORT_STEPS = 20

Predict = nn.Module | Callable[[NDArray[Any]], NDArray[np.float32]]


@dataclass(frozen=True)
class EpochResult:
    """One line of ``log.csv``.

    Attributes:
        epoch: its number, from 1.
        learning_rate: at its last step.
        train_loss: mean over its images, as trained (augmented, smoothed labels).
        train_accuracy: top-1 on the augmented images while training, 0 to 1.
        val_accuracy: top-1 on the validation images after it, 0 to 1.
        seconds: time it took, evaluation included.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_accuracy: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """What training came to.

    Attributes:
        checkpoint: path of the best epoch's checkpoint.
        val_accuracy: top-1 of that epoch on the validation images, 0 to 1.
        test_accuracy: top-1 of that epoch on the test images, 0 to 1.
        history: every epoch, those of earlier runs included.
        first_epoch: the epoch this run began with: 1 if it started afresh, ``epochs + 1`` if all was done
            before.
    """

    checkpoint: Path
    val_accuracy: float
    test_accuracy: float
    history: tuple[EpochResult, ...]
    first_epoch: int


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
) -> TrainResult:
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
        UserError: ``out_dir`` holds a run with other settings, the data do not fill a batch, or an augmentation is not
            known.
        JobError: the loss stopped being a finite number; the last good epoch stays in ``out_dir``.
    """
    tune_allocator()
    for name in recipe.augmentations or ():
        AUGMENTATIONS.get(name)  # refused before there is a folder
    run = _Run(module, data, recipe, out_dir, fabric, architecture, initial_weights)
    first_epoch = run.resume() + 1
    images = data.train.steps(recipe.batch_size) * recipe.batch_size
    bar = ProgressBar(
        "training",
        images * recipe.epochs,
        done=images * (first_epoch - 1),
        show=show_progress and fabric.is_global_zero,
    )
    with bar:
        for epoch in range(first_epoch, recipe.epochs + 1):
            result = run.epoch(epoch, bar)
            bar.say(
                f"epoch {epoch}/{recipe.epochs}: loss {result.train_loss:.3f}, "
                f"train accuracy {result.train_accuracy:.1%}, validation accuracy {result.val_accuracy:.1%}, "
                f"{images / result.seconds:,.0f} images/s"
            )
        best = run.finish()
    assert best.test_accuracy is not None
    return TrainResult(run.best_path, best.val_accuracy, best.test_accuracy, tuple(run.history), first_epoch)


def evaluate(
    predict: Predict,
    split: Split,
    data: Data,
    *,
    batch_size: int = 64,
    fabric: Fabric | None = None,
    pixels: bool = False,
) -> float:
    """Top-1 accuracy on a split, from 0 to 1.

    Args:
        predict: a network, evaluated where its weights are and left in the mode it was in; or any function of
            (B, 3, R, R) float32 normalised images, or of pixels, that gives (B, classes) logits, such as an exported
            file.
        split: the images.
        data: whose statistics normalise them.
        batch_size: images at a time; the last batch may be smaller, so use 1 for a file of fixed batch 1.
        fabric: shares the images out among its processes if given.
        pixels: whether ``predict``, then a function, takes the images as they are, uint8.
    """
    rank, world_size = (fabric.global_rank, fabric.world_size) if fabric else (0, 1)
    batches = split.batches(batch_size * world_size, rank=rank, world_size=world_size)
    if isinstance(predict, nn.Module):
        count = _module_hits(predict, batches, data)
    else:
        count = _function_hits(predict, batches, None if pixels else data)
    hits = torch.tensor(count, dtype=torch.float64)
    if fabric and world_size > 1:
        hits = _summed(fabric, hits)
    return float(hits) / len(split)


def _module_hits(module: Any, batches: Iterator[tuple[Tensor, Tensor]], data: Data) -> int:
    weight = next(module.parameters())
    was_training = module.training
    module.eval()
    hits = torch.zeros((), dtype=torch.int64, device=weight.device)
    with torch.inference_mode():
        for images, labels in batches:
            inputs = normalise(images.to(weight.device), data.mean, data.std).to(weight.dtype)
            hits += (module(inputs).argmax(1) == labels.to(weight.device)).sum()
    module.train(was_training)
    return int(hits)


def _function_hits(function: Any, batches: Iterator[tuple[Tensor, Tensor]], normalising: Data | None) -> int:
    hits = 0
    for images, labels in batches:
        inputs = normalise(images, normalising.mean, normalising.std) if normalising else images
        hits += int((np.asarray(function(inputs.contiguous().numpy())).argmax(1) == labels.numpy()).sum())
    return hits


def _summed(fabric: Fabric, value: Tensor) -> Tensor:
    # Fabric reduces in place.
    summed = fabric.all_reduce(value.to(fabric.device, copy=True), reduce_op="sum")
    assert isinstance(summed, Tensor)
    return summed


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [item for item in module.parameters() if item.requires_grad]
    return [
        {"params": [item for item in parameters if item.ndim > 1], "weight_decay": weight_decay},
        {"params": [item for item in parameters if item.ndim <= 1], "weight_decay": 0.0},
    ]


class _Run:
    """A run folder and what is in motion."""

    def __init__(
        self,
        module: nn.Module,
        data: Data,
        recipe: TrainRecipe,
        out_dir: Path,
        fabric: Fabric,
        architecture: str,
        initial_weights: str,
    ) -> None:
        self.module = module.to(memory_format=torch.channels_last)
        self.data, self.recipe, self.fabric, self.architecture = data, recipe, fabric, architecture
        self.optimizer = torch.optim.SGD(
            _parameter_groups(module, recipe.weight_decay),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            nesterov=recipe.momentum > 0,
        )
        self.parallel, self.optimizer = fabric.setup(module, self.optimizer)
        self.average: AveragedModel | None = None
        if recipe.ema_decay:
            self.average = AveragedModel(module, multi_avg_fn=self._blend, use_buffers=True)
        self.history: list[EpochResult] = []
        self.last_path, self.best_path, self.log_path = (out_dir / name for name in ("last.pt", "best.pt", "log.csv"))
        self.out_dir = out_dir
        self.settings = {
            **asdict(recipe),
            "architecture": architecture,
            "initial weights": initial_weights,
            "resolution": data.resolution,
            "classes": list(data.classes),
            "training images": len(data.train),
            "validation images": len(data.val),
            "test images": len(data.test),
            "mean colour": list(data.mean),
            "images": data.fingerprint,
            "precision": str(fabric.strategy.precision.precision),
        }

    def _blend(self, averages: Any, weights: Any, count: Any) -> None:
        steps = int(count)
        decay = min(self.recipe.ema_decay, (1 + steps) / (10 + steps))
        for average, weight in zip(averages, weights, strict=True):
            if average.is_floating_point():
                average.lerp_(weight, 1 - decay)
            else:
                average.copy_(weight)

    def resume(self) -> int:
        """Take up the state of ``last.pt`` if there is one; the number of epochs already done."""
        found = self.last_path.exists()
        # The first process may write only when all have looked.
        self.fabric.barrier()
        if not found:
            if self.best_path.exists():
                raise UserError(f"{self.out_dir} has best.pt but no last.pt to continue; use another folder")
            if self.fabric.is_global_zero:
                # Written before the first epoch, so that a kill in it repeats the same initial weights.
                self._write_last()
            return 0
        state = read_tensors(self.last_path, _STATE_FORMAT)
        self._refuse_other(state["settings"])
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.history = [EpochResult(**row) for row in state["history"]]
        if self.fabric.is_global_zero:
            # What a killed run was writing when it died.
            for name in (self.last_path.name, self.best_path.name, self.log_path.name):
                for leftover in self.out_dir.glob(f".{name}.*"):
                    shutil.rmtree(leftover, ignore_errors=True)
            self._write_log()
        return len(self.history)

    def _refuse_other(self, settings: dict[str, Any]) -> None:
        for name, value in self.settings.items():
            before = settings.get(name)
            if before != value:
                detail = f"{name} {_short(before)}, and this run asks for {_short(value)}"
                raise UserError(f"{self.out_dir} holds a run with {detail}; use another folder, or remove that one")

    def epoch(self, epoch: int, bar: ProgressBar) -> EpochResult:
        """Train for one epoch, evaluate and save."""
        started = time.monotonic()
        # Seeding every epoch anew spares keeping the state of every generator in the checkpoint.
        seed_everything(derive_seed(self.recipe.seed, epoch, self.fabric.global_rank), verbose=False)
        loss, accuracy = self._steps(epoch, bar)
        evaluated = self.average.module if self.average else self.module
        self._agree_on_buffers(evaluated)
        val_accuracy = evaluate(evaluated, self.data.val, self.data, fabric=self.fabric)
        best = max((row.val_accuracy for row in self.history), default=-1.0)
        rate = float(self.optimizer.param_groups[0]["lr"])
        result = EpochResult(epoch, rate, loss, accuracy, val_accuracy, time.monotonic() - started)
        self.history.append(result)
        if self.fabric.is_global_zero:
            # In this order a kill in between costs the epoch, which then runs again in just the same way.
            if val_accuracy > best:
                self._write_best(evaluated, val_accuracy)
            self._write_last()
            self._write_log()
        self.fabric.barrier()
        return result

    def _steps(self, epoch: int, bar: ProgressBar) -> tuple[float, float]:
        """One epoch's mean loss and accuracy."""
        recipe, fabric = self.recipe, self.fabric
        steps = self.data.train.steps(recipe.batch_size)
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
        # Loss and hits, summed over the images of this process; kept on the device so that it need not wait.
        sums = torch.zeros(2, dtype=torch.float32, device=fabric.device)
        loss = accuracy = math.nan
        for step, (images, labels) in enumerate(batches, start=1):
            rate = recipe.learning_rate_at(epoch - 1 + step / steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad()
            logits = self.parallel(images)
            batch_loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
            fabric.backward(batch_loss)
            self.optimizer.step()
            if self.average:
                self.average.update_parameters(self.module)
            hits = (logits.detach().argmax(1) == labels).sum()
            sums += torch.stack([batch_loss.detach() * len(labels), hits])
            note = None
            if step % _REPORT_STEPS == 0 or step == steps:
                total = _summed(fabric, sums) / (step * recipe.batch_size)
                loss, accuracy = total.tolist()
                note = f"epoch {epoch}/{recipe.epochs} loss {loss:.3f} accuracy {accuracy:.1%}"
                if not math.isfinite(loss):
                    raise self._exploded(f"the loss became {loss}", epoch)
            bar.advance(recipe.batch_size, note)
        # The last step may have spoilt the weights, which no loss has seen yet.
        state = self.module.state_dict().values()
        if not all(bool(value.isfinite().all()) for value in state):
            raise self._exploded("the weights became infinite", epoch)
        return loss, accuracy

    def _exploded(self, what: str, epoch: int) -> JobError:
        return JobError(
            f"{what} in epoch {epoch}; {self.out_dir} keeps the epochs before; "
            f"train into another folder with a learning rate below {self.recipe.learning_rate:g}"
        )

    def _agree_on_buffers(self, module: nn.Module) -> None:
        if self.fabric.world_size > 1:
            for buffer in module.buffers():
                buffer.copy_(self.fabric.broadcast(buffer))

    def _write_best(self, module: nn.Module, val_accuracy: float, test_accuracy: float | None = None) -> None:
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
        )
        save_checkpoint(self.best_path, checkpoint)

    def _write_last(self) -> None:
        state = {
            "settings": self.settings,
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "history": [asdict(row) for row in self.history],
            "tool_version": __version__,
        }
        write_tensors(self.last_path, state, _STATE_FORMAT)

    def _write_log(self) -> None:
        columns = [item.name for item in fields(EpochResult)]
        with write_whole(self.log_path) as partial:
            pd.DataFrame([asdict(row) for row in self.history], columns=columns).to_csv(partial, index=False)

    def finish(self) -> Checkpoint:
        """Load the best weights into the module, and measure them on the test images if not done before."""
        best = load_checkpoint(self.best_path)
        self.module.load_state_dict(best.state_dict)
        if best.test_accuracy is None:
            test_accuracy = evaluate(self.module, self.data.test, self.data, fabric=self.fabric)
            if self.fabric.is_global_zero:
                self._write_best(self.module, best.val_accuracy, test_accuracy)
            self.fabric.barrier()
            best = load_checkpoint(self.best_path)
        return best


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 and "\n" not in text else "of its own"
