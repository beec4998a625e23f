"""What fbnet-export says of a file: its answers beside PyTorch's, and its latency beside the prediction."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from fbnet_mobile.arch import Architecture
from fbnet_mobile.cli import benchmark, export
from fbnet_mobile.devices import get_device
from fbnet_mobile.latency.table import BLOCK, INVOCATION, Conditions, LatencyTable, Measurement
from fbnet_mobile.measure.jobs import runtime_version


@pytest.fixture(scope="module")
def table(network: Architecture, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = {
        LatencyTable.row_key(BLOCK, [block]): Measurement(us, us, us, us, us, us, 9, 3, 0.0)
        for block, us in zip(network.blocks, (40.0, 30.0), strict=True)
    }
    rows[LatencyTable.row_key(INVOCATION)] = Measurement(10, 10, 10, 10, 10, 10, 9, 3, 0.0)
    host = get_device("host")
    cpu, version = host.facts().cpu, runtime_version(host, "litert")
    conditions = Conditions("host", cpu, "litert", version, 1, "fp32", "median", "tiny", "2026-01-01")
    path = tmp_path_factory.mktemp("table") / "host.csv"
    LatencyTable(conditions, rows).save(path)
    return path


def run(program: Any, *words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["fbnet", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            program.main()
    assert not ended.value.code


@pytest.mark.parametrize("suffix", ["tflite", "onnx", "mlpackage"])
def test_accuracy_on_the_test_images_is_that_of_the_benchmark(
    suffix: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"m.{suffix}"
    run(export, "--checkpoint", checkpoint, "--precision", "int8", "--data", "digits", "--images", 500, "-o", path)
    said = capsys.readouterr().out
    assert "on 179 test images" in said
    found = re.search(
        r"int8: PyTorch's answer on (\S+)% of them; accuracy (\S+)%, PyTorch's (\S+)% \((\S+) points\)", said
    )
    assert found
    agreement, accuracy, own, points = map(float, found.groups())
    assert agreement > 90
    assert points == pytest.approx(accuracy - own, abs=0.011)

    run(benchmark, path, checkpoint, "--data", "digits")
    said = capsys.readouterr().out
    assert "MB, int8), " in said
    assert [float(text) for text in re.findall(r"accuracy (\S+)% on 179 test images", said)] == [accuracy, own]


@pytest.mark.parametrize(
    ("suffix", "runtimes"),
    [
        ("onnx", ("openvino", "onnxruntime")),
        pytest.param("pte", ("executorch",), marks=pytest.mark.clients),
    ],
)
def test_a_file_is_compared_measured_and_judged_by_each_runtime_that_is_asked_for(
    suffix: str, runtimes: tuple[str, ...], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"m.{suffix}"
    run(export, "--checkpoint", checkpoint, "--runtime", runtimes[0], "--device", "host", "-o", path)
    assert re.search(rf"latency on host \(.*\), {runtimes[0]}, 1 thread: min ", capsys.readouterr().out)
    words = ("--runtime", ",".join(runtimes), "--data", "digits", "-o", tmp_path / "m.json")
    run(benchmark, path, checkpoint, *words)
    *results, own = json.loads((tmp_path / "m.json").read_text())["models"]
    assert [entry["runtime"] for entry in results] == list(runtimes)
    assert all(entry["latency"]["latency_us"] > 0 for entry in results)
    assert {entry["accuracy"] for entry in results} == {own["accuracy"]}


def test_data_of_other_classes_are_compared_but_not_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], network: Architecture
) -> None:
    path = tmp_path / "network.yaml"
    network.with_classes(3).save(path)
    run(export, "--architecture", path, "--data", "digits", "--images", 20, "-o", tmp_path / "m.onnx")
    said = capsys.readouterr().out
    assert "on 20 test images" in said
    assert "fp32: PyTorch's answer on 100.0% of them\n" in said
    assert "accuracy not counted: the classes of digits are not those of the network" in said


def test_measured_on_a_device_beside_the_prediction(
    checkpoint: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--checkpoint", checkpoint, "--device", "host", "--latency-table", table, "-o")
    run(export, *words, tmp_path / "m.tflite")
    said = capsys.readouterr().out
    assert re.search(
        r"^latency on host \(.+\), litert, 1 thread: min \S+ \S+, p10 .*, mean \S+ \S+; \d+ runs$", said, re.M
    )
    # The fixed cost once, and each block's without it.
    assert re.search(r"^predicted 60\.0 us, [+-]\S+% of the measured median$", said, re.M)

    for more, why in (
        (("m.onnx",), "runtime is onnxruntime, that of the latency table litert"),
        (("m.tflite", "--threads", "2"), "number of threads is 2, that of the latency table 1"),
        (("m.tflite", "--precision", "fp16"), "precision is fp16, that of the latency table fp32"),
    ):
        run(export, *words, tmp_path / more[0], *more[1:])
        said = capsys.readouterr().out
        assert f"no prediction: the {why}" in said
        assert "latency on host" in said
        assert "predicted" not in said


@pytest.mark.parametrize("model", ["fbnetv2-f1", "torchvision:efficientnet_b0"])
def test_a_fresh_network_of_many_layers_has_values_that_16_bits_hold_and_is_the_same_every_time(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [tmp_path / f"{number}.tflite" for number in range(2)]
    for path in paths:
        run(export, "--model", model, "--precision", "fp16", "--tolerance", "0.1", "-o", path)
        assert f"the weights of {model} are freshly initialised" in capsys.readouterr().out
    assert paths[0].read_bytes() == paths[1].read_bytes()
    run(export, "--model", model, "--precision", "fp16", "-o", tmp_path / "m.onnx")
