import hashlib

import pytest
import torch

from fbnet_mobile.data.augment import AUGMENTATIONS, Augmentation, augment, cut, normalise
from fbnet_mobile.errors import UserError


def pictures(resolution: int) -> torch.Tensor:
    """Brightness rises to the right in red, downwards in green; blue is white throughout."""
    ramp = torch.linspace(40, 240, resolution).to(torch.uint8)
    red, green = ramp.expand(resolution, -1), ramp.unsqueeze(1).expand(-1, resolution)
    return torch.stack([red, green, torch.full_like(red, 255)]).repeat(64, 1, 1, 1)


def test_each_image_is_cropped_in_its_own_way_and_half_are_mirrored() -> None:
    images = pictures(16)

    changed = augment(images, ("crop", "flip"), seed=0, epoch=1, step=2)

    assert changed.shape == images.shape
    assert changed.dtype == torch.uint8
    assert len(changed.flatten(1).unique(dim=0)) > 25
    middle = 8
    mirrored = changed[:, 0, middle, middle - 4] > changed[:, 0, middle, middle + 4]
    assert 20 < int(mirrored.sum()) < 44
    assert (changed[:, 1, middle - 4, middle] < changed[:, 1, middle + 4, middle]).all()
    assert torch.equal(changed, augment(images, ("crop", "flip"), seed=0, epoch=1, step=2))
    assert not torch.equal(changed, augment(images, ("crop", "flip"), seed=0, epoch=1, step=3))


def test_a_shift_moves_by_an_eighth_at_most() -> None:
    changed = augment(pictures(16), ("crop",), seed=0, epoch=1, step=1)

    outside = (changed[:, 2] == 0).float()
    columns, rows = outside.amin(1).sum(1), outside.amin(2).sum(1)
    assert columns.unique().tolist() == [0, 1, 2]
    assert rows.unique().tolist() == [0, 1, 2]


NAMES = ("randaugment", "randaugment:3", "trivialaugment", "colour:0.8", "erase:1")


@pytest.mark.parametrize("name", NAMES)
def test_each_image_is_changed_by_its_own_draws(name: str) -> None:
    images = pictures(32)[:16]
    before = torch.random.get_rng_state()
    changed = augment(images, (name,), seed=0, epoch=1, step=2)
    assert changed.dtype == torch.uint8
    assert len(changed.flatten(1).unique(dim=0)) > 10
    assert torch.equal(torch.random.get_rng_state(), before), "torch's own generator"
    halves = [augment(images[rank::2], (name,), seed=0, epoch=1, step=2, rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), changed)


def test_a_strength_counts() -> None:
    images = pictures(32)
    change = {name: float((augment(images, (name,), seed=0, epoch=1, step=1) != images).float().mean())
              for name in ("erase:0", "erase:0.25", "erase:1", "colour:0", "colour:0.4")}  # fmt: skip
    assert change["erase:0"] == change["colour:0"] == 0
    assert 0 < 2 * change["erase:0.25"] < change["erase:1"] < 0.34
    assert change["colour:0.4"] > 0.3
    for name, said in (("flip:2", "write flip"), ("erase:2", "write erase:NUMBER, from 0 to 1"), ("erase:x", "write")):
        with pytest.raises(UserError, match=f"the augmentation '{name}' cannot be; {said}"):
            augment(images, (name,), seed=0, epoch=1, step=1)


@pytest.mark.parametrize(("height", "width"), [(40, 100), (100, 40), (3, 1)])
def test_a_cut_is_a_part_of_the_original_of_the_area_that_is_drawn(height: int, width: int) -> None:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    original = torch.stack([rows, columns, rows], -1)[None].to(torch.uint8).permute(0, 3, 1, 2)
    shares = []
    for draws in torch.rand(100, 4, generator=torch.Generator().manual_seed(0)):
        found = cut(original, draws, 0.2, 16)
        assert found.shape == (1, 3, 16, 16)
        assert found.is_contiguous(memory_format=torch.channels_last)  # else all batches are copied
        found = found.int()
        down, right = (int(found[0, part].amax() - found[0, part].amin()) + 1 for part in (0, 1))
        shares.append(down * right / (height * width))
    assert min(shares) > 0.1
    if height > 3:
        assert min(shares) < 0.3
        assert 0.4 < sum(shares) / 100 < 0.65


def test_nothing_changes_without_augmentations() -> None:
    images = pictures(16)
    assert torch.equal(augment(images, (), seed=0, epoch=1, step=1), images)


@pytest.mark.parametrize(
    ("resolution", "names", "digest"),
    [
        (16, ("crop", "flip"), "79170abd544dc45a"),
        (16, ("flip",), "0f50d70cd7322c15"),
    ],
)
def test_what_a_seed_draws_is_the_same_in_every_version(resolution: int, names: tuple[str, ...], digest: str) -> None:
    changed = augment(pictures(resolution), names, seed=3, epoch=1, step=2)
    assert hashlib.sha256(changed.contiguous().numpy().tobytes()).hexdigest()[:16] == digest


def test_an_augmentation_of_ones_own_changes_nothing_in_what_the_others_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def watch(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        drawn.append(draws)
        return images

    monkeypatch.setattr(AUGMENTATIONS, "_entries", {**AUGMENTATIONS._entries, "watch": Augmentation(watch, draws=3)})
    images = pictures(16)
    seeds = {"seed": 0, "epoch": 1, "step": 2}

    changed = augment(images, ("watch", "crop", "flip"), **seeds)
    for others in ({"step": 3}, {"epoch": 2}, {"seed": 1}):
        augment(images, ("watch",), **{**seeds, **others})
    assert len(torch.cat(drawn).unique()) > 750
    del drawn[1:]
    halves = [augment(images[rank::2], ("watch",), rank=rank, world_size=2, **seeds) for rank in (0, 1)]

    assert torch.equal(changed, augment(images, ("crop", "flip"), **seeds))
    assert drawn[0].shape == (64, 3)
    assert len(drawn[0].unique()) > 180
    assert torch.equal(torch.stack(drawn[1:], 1).flatten(0, 1), drawn[0])
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), images)


def test_an_unknown_augmentation() -> None:
    with pytest.raises(UserError, match="unknown augmentation 'Crop'; did you mean 'crop'"):
        augment(pictures(16), ("Crop",), seed=0, epoch=1, step=1)


def test_normalise() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 4, 5)

    result = normalise(images, mean=(0.5, 0.2, 0.0), std=(0.25, 0.1, 0.5))

    assert result.shape == images.shape
    assert torch.allclose(result, torch.tensor([-2.0, 0, 2]).view(1, 3, 1, 1))
    assert result.is_contiguous(memory_format=torch.channels_last)
