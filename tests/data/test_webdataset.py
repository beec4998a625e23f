"""Shards as WebDataset's own writer makes them, beside the same images as files."""

import io
from pathlib import Path

import pytest
import torch
from PIL import Image
from webdataset.writer import ShardWriter

from fbnet_mobile.data.data import load_data
from fbnet_mobile.errors import UserError


def write(folder: Path, part: str, count: int, classes: int = 3) -> None:
    with ShardWriter(f"{folder}/{part}-%03d.tar", maxcount=7, verbose=0) as shards:
        for number in range(count):
            content = io.BytesIO()
            Image.new("RGB", (20, 16), (number, 50, 9)).save(content, "PNG")
            shards.write({"__key__": f"{number:04}", "png": content.getvalue(), "cls": number % classes})


def test_shards_give_each_image_with_its_label(tmp_path: Path) -> None:
    write(tmp_path, "train", 30)
    write(tmp_path, "val", 9)
    for limit in (10**9, 0):
        data = load_data(f"{tmp_path}/train-{{000..004}}.tar", resolution=8, memory_limit=limit, workers=1)
        assert data.classes == ("0", "1", "2")
        assert (len(data.train), len(data.val), len(data.test)) == (27, 9, 3), (
            "tests are held out of the training images"
        )
        for split in (data.train, data.val):
            ((pixels, labels),) = split.batches(100)
            assert torch.equal(pixels[:, 0, 4, 4] % 3, labels)
    assert data.train.names()[0] == f"0000.png in {tmp_path}/train-000.tar"
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    assert load_data(f"{tmp_path}/train-{{000..004}}.tar", resolution=8).classes == ("ant", "bee", "cat")


def test_shards_that_are_of_no_use(tmp_path: Path) -> None:
    write(tmp_path, "train", 30)
    for text, said in (
        (f"{tmp_path}/train-{{000..005}}.tar", r"cannot read .*train-005\.tar: No such file"),
        ("https://host/train-{000..005}.tar", "is not on a disk; copy the shards"),
    ):
        with pytest.raises(UserError, match=said):
            load_data(text, resolution=8)
    (tmp_path / "odd.tar").write_text("no tar file at all" * 100)
    with pytest.raises(UserError, match=r"odd\.tar is no plain tar file"):
        load_data(str(tmp_path / "odd.tar"), resolution=8)
    (tmp_path / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(UserError, match=r"classes\.txt names 2 classes, and the shards have 3"):
        load_data(f"{tmp_path}/train-000.tar", resolution=8)
