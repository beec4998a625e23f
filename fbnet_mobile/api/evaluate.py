"""What a trained network is worth on labelled images."""

from dataclasses import dataclass
from pathlib import Path

from fbnet_mobile.api.call import check_output, takes
from fbnet_mobile.data.recipe import DataPlace
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.recipe import MachineOptions, option
from fbnet_mobile.report.records import EvaluationResult


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """Everything that an evaluation is asked for."""

    checkpoint: Path = option(help="That is measured.")
    data: str = option(help="Labelled images, as for a training; their test images are looked at.")
    skip_damaged: bool = option(False, help="Leave out images that cannot be decoded.")
    output: Path | None = option(None, shown="none", help="Folder for evaluation.json and pictures.")
    place: DataPlace
    machine: MachineOptions


@takes(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> EvaluationResult:
    """Measure a checkpoint on the test images: accuracy, each class by itself, what it confuses, its calibration.

    With an output, its folder gets evaluation.json, the confusion matrix as pictures and the worst mistakes.
    """
    place, path = options.place, options.checkpoint
    if options.output is not None:
        check_output(options.output, replaces=Path.is_dir, inputs=[path, options.data])

    from dataclasses import replace

    from fbnet_mobile.api.fabric import make_fabric
    from fbnet_mobile.data.data import load_data
    from fbnet_mobile.engine.checkpoint import load_checkpoint
    from fbnet_mobile.train.evaluate import answers
    from fbnet_mobile.train.metrics import measure
    from fbnet_mobile.train.pictures import write_evaluation

    checkpoint = load_checkpoint(path)
    network = checkpoint.module(str(path)).to(make_fabric(options.machine).device)
    data = load_data(
        options.data,
        root=place.data_root,
        resolution=checkpoint.resolution,
        seed=place.split_seed,
        classes=place.classes or checkpoint.classes,
        skip_damaged=options.skip_damaged,
    )
    if data.classes != checkpoint.classes:
        raise UserError(
            f"{shown(path)} tells apart {', '.join(checkpoint.classes[:3])}... and {shown(options.data)} holds "
            f"{', '.join(data.classes[:3])}...: not the same classes"
        )
    (red, green, blue), (r, g, b) = checkpoint.mean, checkpoint.std
    data = replace(data, mean=(red, green, blue), std=(r, g, b))
    logits, labels = answers(network, data.test, data)
    found = measure(logits, labels, data.classes, data.test.names())
    if options.output is not None:
        write_evaluation(options.output, found, data.test)
    return EvaluationResult(checkpoint=path, data=options.data, output=options.output, evaluation=found)
