import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from fbnet_mobile.errors import UserError
from fbnet_mobile.latency.table import BLOCK, INVOCATION
from fbnet_mobile.measure.artifacts import artifacts
from fbnet_mobile.measure.build import build
from fbnet_mobile.space import load_space

BLOCKS = load_space("small").candidates()[:5]
WANTED = artifacts([(INVOCATION, ()), *((BLOCK, (block,)) for block in BLOCKS)], "tflite", "fp32")


def test_each_file_is_written_once(tmp_path: Path) -> None:
    counts: list[int] = []
    files = build(WANTED, tmp_path, counts.append)
    assert sum(counts) == len(WANTED) == len(set(files.values()))
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in files.values()}
    times = {path: path.stat().st_mtime_ns for path in files.values()}
    next(iter(files.values())).unlink()
    assert build(WANTED, tmp_path) == files
    assert sum(path.stat().st_mtime_ns != time for path, time in times.items()) == 1


def test_an_artifact_is_named_by_everything_that_it_is() -> None:
    artifact = WANTED[1]
    others = [
        replace(artifact, blocks=(BLOCKS[1],)),
        replace(artifact, format="onnx"),
        replace(artifact, precision="int8"),
        replace(artifact, input="uint8"),
        replace(artifact, tools="another converter"),
    ]
    assert len({artifact.name, *(other.name for other in others)}) == 6
    assert replace(artifact).name == artifact.name
    assert "fbnet-mobile" in artifact.tools


def test_what_goes_wrong_in_a_process_is_said_here(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown precision 'int4'"):
        build([replace(artifact, precision="int4") for artifact in WANTED], tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert multiprocessing.active_children() == []


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write \S+/models: file exists; choose another"):
        build(WANTED, tmp_path / "models")
