"""What a training would be, without making it."""

from fbnet_mobile.api.call import takes
from fbnet_mobile.api.train import TrainOptions, completed, start_of
from fbnet_mobile.recipe import plain
from fbnet_mobile.train.results import DryRun


@takes(TrainOptions, completed)
def dry_run(options: TrainOptions) -> DryRun:
    """Resolve all options of a training, look at its images, try some of its steps, and say what to expect."""
    from fbnet_mobile.api.fabric import make_fabric
    from fbnet_mobile.api.teacher import open_teacher
    from fbnet_mobile.blocks.network import build
    from fbnet_mobile.data.data import survey
    from fbnet_mobile.train.dry_run import expect

    task, images, recipe = options.task, options.images, options.recipe
    network = start_of(task).architecture
    fabric = make_fabric(options.machine)
    found = survey(
        images.data,
        root=images.place.data_root,
        resolution=network.resolution,
        train_resolution=recipe.train_resolution,
        seed=images.place.split_seed,
        classes=images.place.classes,
        limit=images.limit,
        unlabelled=task.unlabelled,
    )
    module = build(network.with_classes(len(found.classes)))
    teacher = open_teacher(recipe.teacher, found.classes, ((0.5,) * 3, (0.25,) * 3), fabric)
    return expect(module, found, recipe, network.resolution, fabric, plain(options), teacher)
