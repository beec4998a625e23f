import builtins
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fbnet_mobile.data.data import Data, load_data, load_images, training_batches
from fbnet_mobile.data.store import MemoryStore, OriginalStore, Request
from fbnet_mobile.errors import UserError

MakeFolder = Callable[..., Path]

PLAIN = {"blue": 20, "green": 30, "red": 10}


def load(folder: Path, **options: Any) -> Data:
    return load_data(str(folder), **{"resolution": 16, **options})


def test_a_plain_folder_is_split_by_class_without_overlap(make_folder: MakeFolder) -> None:
    data = load(make_folder(PLAIN), memory_limit=0, workers=0)

    assert data.classes == ("blue", "green", "red")
    counts = [torch.bincount(part.labels).tolist() for part in (data.train, data.val, data.test)]
    assert counts == [[16, 24, 8], [2, 3, 1], [2, 3, 1]]
    indices = torch.cat([data.train.index, data.val.index, data.test.index])
    assert sorted(indices.tolist()) == list(range(60))


def test_a_given_test_folder_is_kept_whole(make_folder: MakeFolder) -> None:
    data = load(make_folder({"train/a": 10, "train/b": 10, "test/b": 4}))

    assert (len(data.train), len(data.val)) == (18, 2)
    assert data.test.labels.tolist() == [1, 1, 1, 1]


def test_split_and_limit_keep_each_class_in_its_share(make_folder: MakeFolder) -> None:
    train = load(make_folder(PLAIN)).train

    first, second = train.split(0.75, seed=3)

    assert torch.bincount(first.labels).tolist() == [12, 18, 6]
    assert sorted([*first.index.tolist(), *second.index.tolist()]) == list(range(48))
    assert torch.bincount(train.limit(24).labels).tolist() == [8, 12, 4]
    assert not torch.equal(first.index, train.split(0.75, seed=4)[0].index)


def test_limit_leaves_the_held_out_images_alone(make_folder: MakeFolder) -> None:
    folder = make_folder(PLAIN)
    whole, part = load(folder), load(folder, limit=24)

    assert torch.bincount(part.train.labels).tolist() == [8, 12, 4]
    assert torch.equal(_pixels(part.val), _pixels(whole.val))


def test_a_few_images_of_a_part_are_decoded_and_no_others(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_folder(PLAIN)
    data = load(folder)

    for part in ("train", "val", "test"):
        split = getattr(data, part)
        pixels, labels, classes = load_images(str(folder), part, 1000, resolution=16)
        assert classes == data.classes
        assert torch.equal(labels, split.labels)
        assert torch.equal(pixels, _pixels(split))

    opened, original = [], Image.open
    monkeypatch.setattr(Image, "open", lambda path, **options: (opened.append(path), original(path, **options))[1])
    _, labels, _ = load_images(str(folder), "train", 4, resolution=16)
    assert labels.tolist() == [0, 0, 1, 2]
    assert len(opened) == 4


@pytest.mark.parametrize("memory_limit", [0, 10**9], ids=["decoded when needed", "in memory"])
def test_what_is_seen_does_not_depend_on_the_number_of_processes(make_folder: MakeFolder, memory_limit: int) -> None:
    data = load(make_folder(PLAIN), memory_limit=memory_limit, workers=0)

    def epoch(number: int, rank: int = 0, world_size: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
        shares = {"rank": rank, "world_size": world_size, "device": torch.device("cpu")}
        return list(training_batches(data.train, data, 10, seed=1, epoch=number, **shares))  # type: ignore[arg-type]

    whole, halves = epoch(1), [epoch(1, rank, 2) for rank in (0, 1)]

    assert len(whole) == 4
    for step, (images, labels) in enumerate(whole):
        for rank in (0, 1):
            assert torch.equal(images[rank::2], halves[rank][step][0])
            assert torch.equal(labels[rank::2], halves[rank][step][1])
    assert not torch.equal(whole[0][0], epoch(2)[0][0])


@pytest.mark.parametrize("memory_limit", [0, 10**9], ids=["decoded when needed", "in memory"])
def test_each_epoch_has_its_own_order_of_all_images(make_folder: MakeFolder, memory_limit: int) -> None:
    train = load(make_folder(PLAIN), memory_limit=memory_limit, workers=0).train

    def order(seed: int, epoch: int) -> list[bytes]:
        batches = train.shuffled(16, seed=seed, epoch=epoch, cut=None)
        return [image.contiguous().numpy().tobytes() for images, _ in batches for image in images]

    first = order(0, 1)
    assert len(set(first)) == 48
    assert first == order(0, 1)
    for seed, epoch in ((0, 2), (1, 1)):
        assert first != order(seed, epoch)
        assert sorted(first) == sorted(order(seed, epoch))


def test_both_stores_hold_the_same_pixels(make_folder: MakeFolder) -> None:
    folder = make_folder(PLAIN, size=(40, 24), suffix=".jpg")
    memory, files = load(folder), load(folder, memory_limit=0, workers=1)

    assert isinstance(memory.train.store, MemoryStore)
    assert isinstance(files.train.store, OriginalStore)
    assert torch.equal(_pixels(memory.train), _pixels(files.train))
    assert memory.mean == files.mean


def test_crops_are_cut_out_of_the_original_the_same_in_memory_and_from_files(make_folder: MakeFolder) -> None:
    """Of a picture that is twice as wide as high, the middle half is what a centre crop leaves."""
    folder = make_folder(PLAIN, size=(260, 130), suffix=".jpg")
    for number, path in enumerate(sorted(folder.rglob("*.jpg"))):
        ramp = np.tile(np.linspace(0, 255, 260, dtype=np.uint8), (130, 1))
        Image.fromarray(np.stack([ramp, np.full_like(ramp, number), ramp], axis=-1)).save(path, quality=95)
    memory, files = load(folder, resolution=64), load(folder, resolution=64, memory_limit=0, workers=1)
    assert memory.train.store.originals is not None

    def epoch(data: Data, number: int, **options: Any) -> torch.Tensor:
        options = {
            "seed": 0,
            "epoch": number,
            "device": torch.device("cpu"),
            "augmentations": ("crop", "erase"),
        } | options
        flat = replace(data, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1 / 255, 1 / 255))
        return torch.cat([images for images, _ in training_batches(data.train, flat, 16, **options)])

    first = epoch(memory, 1)
    assert torch.equal(first, epoch(files, 1))
    assert not torch.equal(first, epoch(memory, 2))
    halves = [epoch(memory, 1, rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(torch.stack(halves, 1).flatten(0, 1), first)
    assert torch.equal(epoch(memory, 1, start=1), first[16:])
    seen = epoch(memory, 1, augmentations=("crop",))[:, 0, 32]
    middle = _pixels(memory.train)[:, 0, 32].float()
    assert float(middle.min()) > 50, "the middle alone"
    assert float(seen.min()) < 20, "parts of the original that a centre crop has not"
    assert float(seen.max()) > 235


def test_damaged_images_are_left_out_where_that_is_asked_for(
    make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_folder(PLAIN)
    for name in ("blue/3.png", "green/7.png"):
        (folder / name).write_bytes(b"no image")
    whole = [load(folder, resolution=size, skip_damaged=True, memory_limit=limit, workers=0)
             for size, limit in ((16, 10**9), (64, 10**9), (16, 0))]  # fmt: skip
    for data in whole:
        assert sum(len(part) for part in (data.train, data.val, data.test)) == 58
        assert len(data.damaged) == 2
        assert "blue/3.png" in sorted(data.damaged)[0]
        assert _pixels(data.train).flatten(1).float().mean(1).min() > 60, "a damaged image is no black one"
    assert "left out 2 damaged images, the first: cannot decode" in capsys.readouterr().err
    for path in (folder / "red").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"all training images of class red of .* are damaged; replace them"):
        load(folder, skip_damaged=True)


def test_some_of_the_classes_are_a_data_set_of_their_own(make_folder: MakeFolder) -> None:
    folder = make_folder(PLAIN)
    data = load(folder, classes=["red", "blue"])
    assert data.classes == ("blue", "red")
    assert torch.bincount(data.train.labels).tolist() == [16, 8]
    brightest = _pixels(data.train).float().mean((2, 3)).argmax(1)
    assert torch.equal(brightest, torch.tensor([0, 2])[data.train.labels]), "the colour of each class"
    assert data.fingerprint != load(folder).fingerprint
    with pytest.raises(UserError, match=r"unknown class of .*images 'rod'; did you mean 'red'"):
        load(folder, classes=["rod", "blue"])


def test_unlabelled_images_join_the_training_images_without_a_label(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, more = make_folder(PLAIN), tmp_path / "more" / "deeper"
    more.mkdir(parents=True)
    Image.new("RGB", (16, 16), (200, 100, 50)).save(more / "a.png")
    data = load(folder, unlabelled=more.parent)
    assert len(data.train) == 49
    assert data.train.labels[-1] == -1
    assert _pixels(data.train)[-1, :, 8, 8].tolist() == [200, 100, 50]
    assert data.fingerprint != load(folder).fingerprint


def test_statistics_are_those_of_the_training_images(make_folder: MakeFolder) -> None:
    data = load(make_folder(PLAIN))

    pixels = _pixels(data.train).double() / 255

    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist(), abs=1e-6)


def test_odd_images_become_upright_rgb(make_folder: MakeFolder) -> None:
    folder = make_folder(PLAIN)
    sideways = Image.fromarray(np.repeat(np.uint8([[0], [255]]), 2, axis=1).repeat(8, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned, so that the top of the file is the right of the scene
    (folder / "odd").mkdir()
    sideways.save(folder / "odd" / "0.jpg", exif=exif, quality=100)
    Image.fromarray(np.full((16, 16), 128 * 256, dtype=np.uint16)).save(folder / "odd" / "1.png")
    Image.new("P", (16, 16)).save(folder / "odd" / "2.png", transparency=b"\0")

    data = load(folder, memory_limit=0, workers=0)
    turned, grey, palette = next(data.train.store.fetch([Request(torch.tensor([50, 51, 52]))]))

    assert turned[0, :, 0].float().mean() > 200
    assert turned[0, :, -1].float().mean() < 50
    assert grey.unique().tolist() == [128]
    assert palette.unique().tolist() == [0]


def test_digits_are_not_mirrored() -> None:
    data = load_data("digits", resolution=16)

    assert (len(data.train), len(data.val), len(data.test)) == (1439, 179, 179)
    assert data.augmentations == ("crop",)
    assert _pixels(data.test).shape == (179, 3, 16, 16)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"pip install 'fbnet-mobile\[digits\]'"):
        load_data("digits", resolution=16)


@pytest.mark.parametrize("memory_limit", [0, 10**9], ids=["decoded when needed", "in memory"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tif", ".ppm", ".webp", ".gif", ".avif", ".jp2"])
def test_a_damaged_image_is_named_before_training(
    make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch, memory_limit: int, suffix: str
) -> None:
    monkeypatch.setattr("fbnet_mobile.data.data._STATISTICS_IMAGES", 3)  # which of a large folder are not all either
    folder = make_folder(PLAIN, size=(64, 64), suffix=suffix)
    path = folder / "green" / f"7{suffix}"
    path.write_bytes(path.read_bytes()[:-400])

    with pytest.raises(UserError, match=rf"cannot decode .*green/7\{suffix}: .*; replace or remove it"):
        load(folder, memory_limit=memory_limit, workers=0)


def who_made(batch: torch.Tensor, step: int) -> torch.Tensor:
    return torch.tensor([os.getpid(), *batch.flatten(1).sum(1)])


def test_workers_stay_and_two_readers_do_not_take_each_others_images(make_folder: MakeFolder) -> None:
    train = load(make_folder(PLAIN), memory_limit=0, workers=1).train
    store, requests = train.store, [Request(part) for part in train.index[:40].split(8)]
    first, *rest = store.fetch(requests, who_made)
    left = store.fetch(requests, who_made)
    next(left)
    beside = list(store.fetch(requests, who_made))
    left.close()  # in the middle
    state = torch.get_rng_state()
    again, pickled = list(store.fetch(requests, who_made)), pickle.loads(pickle.dumps(store))

    assert first[0] != os.getpid()
    assert {int(batch[0]) for batch in again} == {int(first[0])}
    assert {int(batch[0]) for batch in beside} != {int(first[0])}
    for batches in (beside, again, pickled.fetch(requests, who_made)):
        assert all(torch.equal(a[1:], b[1:]) for a, b in zip([first, *rest], batches, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_that_vanishes_during_training_is_named_in_one_line(make_folder: MakeFolder) -> None:
    folder = make_folder(PLAIN)
    data = load(folder, memory_limit=0, workers=1)
    (folder / "blue" / "0.png").unlink()

    with pytest.raises(
        UserError, match=r"^cannot decode .*blue/0.png: No such file or directory; replace or remove it$"
    ):
        [list(part.batches(4)) for part in (data.train, data.val, data.test)]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "does not exist"),
        ({"only": 5}, "only one class"),
        ({"a": 5, "b": 0}, "b holds no images"),
        ({"a": 5, "b": 2}, "class b .* only 2 training images; give at least 3"),
        ({"train/a": 5, "train/b": 5, "test/c": 5}, "test has the class c, which .*train lacks"),
        ({"train/a": 5, "train/b": 5, "extra/a": 5}, "extra/ beside train/"),
        ({"Test/a": 5, "valid/b": 5}, "has Test/ but no train/"),
        ({"Train/a": 5, "training/b": 5}, "has Train/ and training/ for the same images"),
    ],
)
def test_a_folder_that_is_of_no_use(make_folder: MakeFolder, counts: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(make_folder(counts))


def test_an_empty_folder_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sub-folders"):
        load(tmp_path)
    (tmp_path / "images.zip").touch()
    with pytest.raises(UserError, match="is a file; unpack it"):
        load(tmp_path / "images.zip")


def test_a_torchvision_data_set(tmp_path: Path) -> None:
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 200), ("t10k", 50)):
        labels = np.arange(count, dtype=np.uint8) % 10
        pixels = np.repeat(labels * 20, 28 * 28)
        head = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        head = np.array([0x801, count], dtype=">i4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())

    data = load_data("FashionMNIST", root=tmp_path, resolution=14)

    assert (len(data.train), len(data.val), len(data.test)) == (180, 20, 50)
    assert data.classes[:2] == ("T-shirt/top", "Trouser")
    assert torch.equal(_pixels(data.test)[:, 2, 7, 7], data.test.labels * 20)
    assert data.augmentations == ("crop", "flip")


def test_a_download_that_fails_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(UserError, match=r"^cannot load SVHN in .*: no route to host; check the connection or [^\n]*$"):
        load_data("SVHN", root=tmp_path, resolution=32)


def test_a_misspelt_data_set() -> None:
    with pytest.raises(UserError, match=r"did you mean 'CIFAR10'.* one of digits, .*USPS, or a folder of images$"):
        load_data("cifar-10", resolution=32)


def _pixels(split: Any) -> torch.Tensor:
    return torch.cat([images for images, _ in split.batches(7)])
