import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from fbnet_mobile.data.data import Survey
from fbnet_mobile.train.dry_run import expect
from fbnet_mobile.train.recipe import TrainRecipe


def test_steps_are_tried_with_the_answers_of_the_teacher() -> None:
    asked = []

    def teach(images: Tensor) -> Tensor:
        asked.append(tuple(images.shape))
        return torch.zeros(len(images), 2)

    survey = Survey({"train": 64, "val": 4, "test": 4}, ("cat", "dog"), 1000, in_memory=True, decode_seconds=0.0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    recipe = TrainRecipe(batch_size=16, accumulate=2)
    expect(module, survey, recipe, 8, Fabric(accelerator="cpu", devices=1), {}, teach)
    assert len(asked) >= 2
    assert len(asked) % 2 == 0
    assert set(asked) == {(8, 3, 8, 8)}
