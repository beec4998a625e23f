"""Training one network, continued where it was interrupted."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fbnet_mobile.data.augment import derive_seed, find_augmentation
from fbnet_mobile.data.data import Data, training_batches
from fbnet_mobile.engine.batch_norm import estimate_batch_norm, training_views
from fbnet_mobile.engine.loop import Means, Task, load_optimizer, run_epochs
from fbnet_mobile.engine.losses import Teacher, make_loss
from fbnet_mobile.engine.processes import in_first_process, require_whole_weights
from fbnet_mobile.engine.run_folder import RunFolder, data_settings
from fbnet_mobile.errors import UserError
from fbnet_mobile.train.average import moving_average
from fbnet_mobile.train.best import BestEpoch
from fbnet_mobile.train.evaluate import evaluate
from fbnet_mobile.train.optimizer import make_optimizer, set_learning_rate
from fbnet_mobile.train.pictures import draw_batch
from fbnet_mobile.train.recipe import TrainRecipe
from fbnet_mobile.train.regularise import Mixing, classifier, regularise
from fbnet_mobile.train.results import EpochResult, Trained

CHECKPOINT, RESULTS, BATCH = "best.pt", "results.csv", "batch.png"


def train(
    module: nn.Module,
    data: Data,
    recipe: TrainRecipe,
    out_dir: Path,
    fabric: Fabric,
    *,
    architecture: str,
    initial_weights: str = "random",
    teacher: Teacher | None = None,
    compiled: bool = False,
    save_minutes: float = 5.0,
    begin: Callable[[], object] = lambda: None,
    pictures: bool = False,
    show_progress: bool = True,
) -> Trained:
    """Train ``module``, or continue where an earlier run in ``out_dir`` stopped.

    After every epoch the folder holds ``last.pt`` (what is needed to continue), ``best.pt`` (the
    ``Checkpoint`` of the best epoch so far, see ``BestEpoch``) and ``results.csv`` (an ``EpochResult`` a line). A run
    that was stopped at any moment goes through the same losses as one that was not, on a CPU with as many
    threads; a run that had finished is not trained again. The test images are looked at once, at the very
    end.

    Batch norm statistics are each process's own, but for accelerators, where all processes share them. The state of
    every process is that of the first one, so strategies that shard parameters (FSDP) are refused.

    Args:
        module: the network: (B, 3, R, R) float32 images to (B, classes) logits. Ends with the best epoch's
            weights.
        data: the images.
        recipe: how to train.
        out_dir: folder of the run; made if it is not there.
        fabric: where to train and at which precision; already launched.
        architecture: the network's architecture as YAML text, kept in the checkpoint.
        initial_weights: where the module's weights come from; a run that began from others is not continued.
        teacher: that the recipe names, if it is no checkpoint.
        compiled: whether steps go through ``torch.compile``.
        save_minutes: after how long the state is kept within an epoch.
        begin: called in the first process once the folder is this run's, before the first step.
        pictures: whether the folder gets ``evaluation.json`` of the test images, and pictures of augmented batches, of
            the curves, of the confusion matrix and of the worst mistakes.
        show_progress: whether to draw a bar, if stderr is a terminal, and write a line per epoch.

    Raises:
        UserError: ``out_dir`` holds a run with other settings, the data do not fill a batch, an augmentation is
            not known, or the teacher is not one for these classes.
        JobError: the loss stopped being a finite number, memory or disk ran out (what was good stays in ``out_dir``),
            or another process works there.
    """
    for name in recipe.augmentations or ():
        find_augmentation(name)  # refused before there is a folder
    require_whole_weights(fabric)
    kept = BestEpoch(out_dir / CHECKPOINT, architecture, data, recipe)
    run = _Training(module, data, recipe, kept, fabric, teacher, compiled)
    run.save_seconds, run.pictures = 60 * save_minutes, pictures
    settings = {
        **asdict(recipe),
        **data_settings(data),
        "architecture": architecture,
        "initial weights": initial_weights,
        "teacher": run.teacher.digest if run.teacher else "",
        "compiled": compiled,
        "precision": str(fabric.strategy.precision.precision),
    }
    folder = RunFolder(out_dir, "training", settings, EpochResult, fabric, results=[CHECKPOINT], log=RESULTS)
    with folder:
        folder.resume(run.load_state_dict, run.state_dict)
        in_first_process(fabric, begin)
        first_epoch = len(folder.history) + 1
        kept.highest = max((row.val_accuracy for row in folder.history), default=0.0)
        run_epochs(run, folder, show_progress=show_progress)
        best = kept.test(run.module, fabric, folder.history, pictures=pictures)
    assert best.test_accuracy is not None
    return Trained(kept.path, best.val_accuracy, best.test_accuracy, tuple(folder.history), first_epoch)


class _Training(Task[EpochResult]):
    title = "training"
    pictures = False

    def __init__(
        self,
        module: nn.Module,
        data: Data,
        recipe: TrainRecipe,
        best: BestEpoch,
        fabric: Fabric,
        teacher: Teacher | None,
        compiled: bool,
    ) -> None:
        self.epochs, self.batch_size, self.seed = recipe.epochs, recipe.batch_size, recipe.seed
        self.steps, self.learning_rate = data.train.steps(recipe.batch_size), recipe.learning_rate
        size = recipe.train_resolution or data.resolution
        self.images = f"{size} x {size} pixels"
        self.data, self.recipe, self.fabric, self.best = data, recipe, fabric, best
        self.loss, self.teacher = make_loss(recipe, data, fabric, teacher)
        if recipe.batch_size % (parts := recipe.accumulate * fabric.world_size):
            raise UserError(
                f"a batch of {recipe.batch_size} images has no {parts} equal parts ({fabric.world_size} processes, "
                f"accumulate {recipe.accumulate}); use a batch size that is a multiple of {parts}"
            )

        if self.loss.partly and (recipe.mixup or recipe.cutmix):
            raise UserError(
                "images without a label cannot be mixed with those that have one; leave out mixup and cutmix"
            )
        if fabric.world_size > 1 and fabric.device.type == "cuda":  # torch has it for no other device
            module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        chosen = data.augmentations if recipe.augmentations is None else recipe.augmentations
        self.augmentations = [f"crop:{recipe.crop_area:g}" if name == "crop" else name for name in chosen]
        self.weights = balanced(data.train.labels) if recipe.sampler == "balanced" else None

        self.module = module.to(memory_format=torch.channels_last)
        regularise(module, recipe.dropout, recipe.drop_path)
        self.mix = Mixing(recipe, len(data.classes))
        self.last_layer = set(classifier(module).parameters())
        self.optimizer = make_optimizer(module, recipe)
        stepped: Any = torch.compile(module) if compiled else module
        self.parallel, self.optimizer = fabric.setup(stepped, self.optimizer)
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
            augmentations=self.augmentations,
            repeats=recipe.repeats,
            weights=self.weights,
            start=self.done,
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        self.parallel.train()
        frozen = self._freeze(epoch)
        if not self.done:
            self.means = Means(fabric, 2)
        for step, (images, labels) in enumerate(batches, start=self.done + 1):
            # Seeded for every step, so that what is drawn does not depend on where an interrupted run began again.
            torch.manual_seed(derive_seed(recipe.seed, epoch, step, fabric.global_rank))
            self.rate = recipe.learning_rate_at(epoch - 1 + step / self.steps)
            set_learning_rate(self.optimizer, self.rate)
            self.optimizer.zero_grad()
            images, labels = self.mix(images, labels, epoch)
            if epoch == step == 1 and self.pictures and fabric.is_global_zero:
                draw_batch(self.best.path.with_name(BATCH), images, labels, self.data)
            self.means.add(*self._backward(images, labels))
            for parameter in frozen:
                parameter.grad = None
            if recipe.clip:
                fabric.clip_gradients(self.module, self.optimizer, max_norm=recipe.clip, error_if_nonfinite=False)
            self.optimizer.step()
            if self.average:
                self.average.update_parameters(self.module)
            self.done = step
            yield

    def _freeze(self, epoch: int) -> list[nn.Parameter]:
        """Keep all but the classifier as it is in the first epochs; the parameters that are not to be moved."""
        frozen = epoch <= self.recipe.frozen_epochs
        kept = [item for item in self.module.parameters() if item not in self.last_layer] if frozen else []
        if frozen:  # with the statistics of batch norm that those weights were trained with
            for part in self.module.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        return kept

    def _backward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of a batch, in parts that are computed one after the other; its loss and accuracy."""
        parts = self.recipe.accumulate
        found = []
        for number, (some, theirs) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True), start=1):
            with self.fabric.no_backward_sync(self.parallel, enabled=number < parts):
                logits = self.parallel(some)
                loss = self.loss(logits, theirs, some, self.teacher) / parts
                self.fabric.backward(loss)
            wanted = theirs if theirs.ndim == 1 else theirs.argmax(1)
            hits = (logits.detach().argmax(1) == wanted).float().mean()
            if self.loss.partly:
                hits = hits / (wanted >= 0).float().mean().clamp(min=1 / len(wanted))
            found.append(torch.stack([loss.detach(), hits / parts]))
        loss, accuracy = torch.stack(found).sum(0)
        return loss, accuracy

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
        self.done = 0
        if self.fabric.world_size > 1:
            for buffer in self.evaluated.buffers():
                buffer.copy_(self.fabric.broadcast(buffer))
        if count := self.recipe.batch_norm_images:
            views = training_views(self.data, count, self.fabric.device, self.augmentations, self.recipe.seed)
            estimate_batch_norm(self.evaluated, views)
        accuracy = evaluate(self.evaluated, self.data.val, self.data, fabric=self.fabric)
        return EpochResult(epoch, self.rate, self.loss_now, self.accuracy_now, accuracy, time.monotonic() - started)

    def write(self, row: EpochResult) -> None:
        """Keep the checkpoint of the best epoch."""
        self.best.offer(self.evaluated, row.val_accuracy)

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
            "done": self.done,
            "means": self.means.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Task``."""
        self.module.load_state_dict(state["module"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average:
            self.average.load_state_dict(state["average"])
        self.done = int(state["done"])
        if not 0 <= self.done < self.steps:
            raise ValueError("steps of another epoch")
        self.means.load_state_dict(state["means"])


def balanced(labels: Tensor) -> Tensor:
    """How often each image must be drawn for all classes to come equally often: (N,), in proportion.

    Images without a label are as one class more.
    """
    moved = labels + 1
    return 1 / torch.bincount(moved)[moved].double()
