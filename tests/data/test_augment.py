import pytest
import torch

from fbnet_mobile.data.augment import augment, normalise


def pictures(resolution: int) -> torch.Tensor:
    """Brightness rises to the right in red, downwards in green; blue is white throughout."""
    ramp = torch.linspace(40, 240, resolution).to(torch.uint8)
    red, green = ramp.expand(resolution, -1), ramp.unsqueeze(1).expand(-1, resolution)
    return torch.stack([red, green, torch.full_like(red, 255)]).repeat(64, 1, 1, 1)


@pytest.mark.parametrize("resolution", [16, 64])
def test_each_image_is_cropped_in_its_own_way_and_half_are_mirrored(resolution: int) -> None:
    images = pictures(resolution)

    changed = augment(images, seed=0, epoch=1, step=2)

    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    assert len(changed.flatten(1).unique(dim=0)) > 25
    middle = resolution // 2
    mirrored = changed[:, 0, middle, middle - 4] > changed[:, 0, middle, middle + 4]
    assert 20 < int(mirrored.sum()) < 44
    assert (changed[:, 1, middle - 4, middle] < changed[:, 1, middle + 4, middle]).all()
    assert torch.equal(changed, augment(images, seed=0, epoch=1, step=2))
    assert not torch.equal(changed, augment(images, seed=0, epoch=1, step=3))


def test_a_shift_moves_by_an_eighth_at_most() -> None:
    changed = augment(pictures(16), seed=0, epoch=1, step=1, flip=False)

    outside = (changed[:, 2] == 0).float()
    columns, rows = outside.amin(1).sum(1), outside.amin(2).sum(1)
    assert columns.unique().tolist() == [0, 1, 2]
    assert rows.unique().tolist() == [0, 1, 2]


def test_nothing_changes_without_crop_and_flip() -> None:
    images = pictures(16)
    assert torch.equal(augment(images, seed=0, epoch=1, step=1, crop=False, flip=False), images)


def test_normalise() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 4)

    result = normalise(images, mean=(0.5, 0.2, 0.0), std=(0.25, 0.1, 0.5))

    assert result[0, :, 0, 0].tolist() == pytest.approx([-2, 0, 2])
    assert result.is_contiguous(memory_format=torch.channels_last)
