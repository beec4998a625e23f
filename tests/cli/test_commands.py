"""The commands as a user types them: help, and one line for each thing that can be wrong."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import build
from fbnet_mobile.engine.checkpoint import Checkpoint, save_checkpoint

COMMANDS = ("profile", "search", "train", "export", "benchmark", "report")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_every_default_without_loading_what_is_slow(command: str) -> None:
    code = f"""
import sys
from fbnet_mobile.cli.{command} import main
sys.argv = ["fbnet-{command}", "--help"]
try:
    main()
finally:
    slow = {{"torch", "torchvision", "pandas", "numpy", "coremltools", "onnx"}} & set(sys.modules)
    assert not slow, slow
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert f"Example: fbnet-{command} " in shown.stdout
    options = re.split(r"\n  (?=-)", shown.stdout.split("  -h, --help")[0])[1:]
    assert options
    for option in options:
        assert "[default:" in option or "[required]" in option, option


def test_published_networks_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["fbnet-benchmark", "--list-models"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module("fbnet_mobile.cli.benchmark").main()
    assert not ended.value.code
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    source = "model_info_fbnet_v2.json@bb8465c"
    assert ["fbnetv2-f1", "128", "56.231936", "6.024744", "56.410560", "5.999408", "68.3", source] in shown
    assert ["fbnetv2-f0", "224", "66.280000", "2.822368", "66.554112", "2.811448", "-"] in shown


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of things that are wrong."""
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / name / f"{number}.png")
    (tmp_path / "images" / "b" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "empty").mkdir()
    (tmp_path / "typo.yaml").write_text("name: x\nresolution: 32\nblocks:\n  - {kind: conv, out_chanels: 8}\n")
    (tmp_path / "good.yaml").write_text(
        "name: x\nresolution: 32\nblocks:\n  - {kind: conv, out_channels: 8}\n"
        "  - {kind: head, out_channels: 2, conv_channels: 8}\n"
    )
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    (tmp_path / "text.tflite").write_text("not a model")
    good = Architecture.load(tmp_path / "good.yaml")
    wider = Architecture.from_yaml((tmp_path / "good.yaml").read_text().replace("conv_channels: 8", "conv_channels: 9"))
    images = {"classes": ("a", "b"), "mean": (0.5,) * 3, "std": (0.25,) * 3, "resolution": 32, "val_accuracy": 0.5}
    weights = build(good).state_dict()
    save_checkpoint(tmp_path / "good.pt", Checkpoint(good.to_yaml(), weights, **images))  # type: ignore[arg-type]
    save_checkpoint(tmp_path / "other.pt", Checkpoint(wider.to_yaml(), weights, **images))  # type: ignore[arg-type]
    (tmp_path / "cut.pt").write_bytes((tmp_path / "good.pt").read_bytes()[:-200])
    return tmp_path


SEARCH = ("search", "--latency-table", "text.csv", "--data", "digits", "-o", "out", "--target-latency")
TRAIN = ("train", "-o", "out", "--architecture")
GOOD = ("--architecture", "good.yaml")
INT8 = ("--precision", "int8", "--calibration-data")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("profile", "--space", "smal", "-o", "out"), "unknown space 'smal'; did you mean 'small'?"),
        (("profile", "--space", "typo.yaml", "-o", "out"), "typo.yaml: block 1: unknown field 'out_chanels'"),
        (("profile", "--device", "toaster", "-o", "out"), "unknown device 'toaster'; choose one of adb, coreml"),
        (("profile", "--runtime", "caffe", "-o", "out"), "unknown runtime 'caffe'; choose one of litert, onnxruntime"),
        (("profile", "--format", "onnx", "-o", "out"), "litert runs no files of the format onnx; it runs tflite"),
        (("profile", "--precision", "int4", "-o", "out"), "unknown precision 'int4'; did you mean 'int8'?"),
        (("profile", "--budget", "soon", "-o", "out"), "'soon' is not a length of time"),
        (("profile", "--threads", "0", "-o", "out"), "threads is 0; give a whole number from 1 to 1024"),
        (("profile", "--spaec", "small"), "No such option '--spaec'"),
        (("train",), "missing option --output; see --help"),
        (("train", "--data", "digits", "-o", "out"), "no network to train; give one of"),
        (("profile",), "missing option --output"),
        (("profile", "-o", "text.csv"), "text.csv is not a latency table: column 'schema_version' is missing"),
        ((*SEARCH, "8"), "'8' is not a latency; write a number with its unit, such as 12ms or 350us"),
        ((*SEARCH, "8ms"), "text.csv is not a latency table"),
        (("search", "--data", "digits", "-o", "out"), "nothing limits the network; give --latency-table and"),
        (("search", "--plan", "--max-macs", "5M"), "no space; name one with --space, or give --data"),
        (("search", "--plan", "--space", "photo", "--resolution", "96,x"), "--resolution is '96,x'; write pixels"),
        ((*SEARCH, "8ms,9"), "'9' is not a latency"),
        ((*SEARCH, "8ms", "--latency-table", "text.csv"), "2 tables and 1 target latencies; give"),
        ((*SEARCH, "8ms", "--target-latency", "8ms,9ms"), "1 tables and 1, 2 target latencies; give"),
        ((*SEARCH, "8ms", "--max-params", "few"), "'few' is not a count; write a number such as 1.5M or 300k"),
        ((*SEARCH[:2], "none.csv", *SEARCH[3:], "8ms"), "cannot read none.csv: No such file or directory"),
        ((*TRAIN, "typo.yaml", "--data", "digits"), "did you mean 'out_channels'?"),
        ((*TRAIN, "none.yaml", "--data", "digits"), "cannot read none.yaml: No such file or directory"),
        ((*TRAIN, "fbnetv2_f1", "--data", "digits"), "did you mean 'fbnetv2-f1'?"),
        ((*TRAIN, "good.yaml", "--data", "empty"), "empty"),
        ((*TRAIN, "good.yaml", "--data", "none"), "none"),
        ((*TRAIN, "good.yaml", "--data", "images"), "images/b/3.png"),
        ((*TRAIN, "good.yaml", "--data", "digits", "--devices", "many"), "'many' is not a number of devices"),
        (("export", "--checkpoint", "text.pt", "-o", "out.onnx"), "text.pt"),
        (("export", "--checkpoint", "none.pt", "-o", "out.onnx"), "none.pt does not exist"),
        (("export", "--architecture", "good.yaml", "-o", "out.tfl"), "cannot tell the format of out.tfl"),
        (("export", "--architecture", "good.yaml", "--format", "onnx", "-o", "out.tflite"), "does not end in .onnx"),
        (("export", "-o", "out.tflite"), "no network; give --checkpoint, --architecture or --model"),
        (("export", "--model", "fbnet_v2_l1", "-o", "out.tflite"), "did you mean 'fbnetv2-l1'?"),
        (("export", "--model", "fbnet-a", "--architecture", "good.yaml", "-o", "out.onnx"), "leave out --checkpoint"),
        (("export", "--model", "fbnet-a", "--checkpoint", "text.pt", "-o", "out.onnx"), "text.pt"),
        (("export", "--architecture", "good.yaml", "-o", "text.csv/out.onnx"), "cannot write text.csv/out.onnx"),
        (("export", "--model", "fbnet-a", "--pretrained", "-o", "out.onnx"), "--pretrained is for networks of timm"),
        (("export", "--model", "fbnet-a", "--channels", "1", "-o", "out.onnx"), "--channels is for networks of"),
        (("export", "--model", "fbnet-a", "--resolution", "64x", "-o", "out.onnx"), "resolution is '64x'; give pixels"),
        (("export", "--model", "fbnet-a", "--features", "stride3", "-o", "out.onnx"), "unknown feature map 'stride3'"),
        (("export", "--model", "timm:resnet18", "--checkpoint", "text.pt", "-o", "out.onnx"), "leave out --checkpoint"),
        (("export", "--model", "torchvision:resnet19", "-o", "out.onnx"), "did you mean 'torchvision:resnet18'?"),
        (("export", *GOOD, "--input", "uint16", "-o", "out.onnx"), "unknown input 'uint16'; did you mean 'uint8'?"),
        (("export", *GOOD, "--opset", "18", "-o", "out.tflite"), "tflite has no opset; only onnx has it"),
        (("export", *GOOD, "--dynamic-batch", "-o", "out.mlpackage"), "coreml has no dynamic batch; only onnx has it"),
        (("export", *GOOD, "--opset", "5", "-o", "out.onnx"), "cannot write opset 5; choose one from 14 to"),
        (("export", "--checkpoint", "cut.pt", "-o", "out.onnx"), "cut.pt is damaged or no checkpoint"),
        (("export", "--checkpoint", "other.pt", "-o", "out.onnx"), "other.pt: its weights do not fit its architecture"),
        (
            ("export", "--model", "fbnet-a", "--checkpoint", "good.pt", "-o", "out.onnx"),
            "good.pt is a checkpoint that fbnet-train wrote, which brings its network",
        ),
        (("export", *GOOD, *INT8, "images", "-o", "out.tflite"), "cannot decode images/b/3.png"),
        (("export", *GOOD, *INT8, "images", "-o", "out.onnx"), "cannot decode images/b/3.png"),
        (("export", *GOOD, *INT8, "none", "-o", "out.onnx"), "unknown data source 'none'"),
        (("export", *GOOD, *INT8[:2], "-o", "out.onnx"), "int8 for onnx needs images to calibrate its activations on"),
        (("export", "--model", "timm:halonet26t", "-o", "out.onnx"), "cannot export unfold in 'stages.2.1.self_attn'"),
        (("export", *GOOD, "--device", "toaster", "-o", "out.onnx"), "unknown device 'toaster'"),
        (("export", *GOOD, "--device", "host", "-o", "out.mlpackage"), "coreml cannot be measured on host; leave out"),
        (("export", *GOOD, "--latency-table", "text.csv", "-o", "out.onnx"), "add --device host, or leave it out"),
        (
            ("export", *GOOD, "--device", "host", "--latency-table", "text.csv", "-o", "out.onnx"),
            "text.csv is not a latency table",
        ),
        (("export", *GOOD, "--runtime", "openvino", "-o", "out.mlpackage"), "openvino runs no files of the format"),
        (("benchmark", "none.tflite"), "there is no model at none.tflite"),
        (("benchmark", "none.tflite", "--runtime", "onnxruntime"), "onnxruntime runs no .tflite files such as"),
        (("benchmark", "none.onnx", "--runtime", "openvino,litert"), "litert runs none of the files; leave it out of"),
        (("report",), "nothing to report on; give folders that fbnet-search or fbnet-train wrote"),
        (("report", "none"), "none does not exist; give folders of runs"),
        (("report", "text.csv"), "nothing to report on in text.csv"),
        (("benchmark",), "no model files; name some, or see the published networks with --list-models"),
        (("benchmark", "text.csv"), "cannot tell the format of text.csv"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(
    folder: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = sorted(folder.rglob("*"))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", [f"fbnet-{arguments[0]}", *arguments[1:]])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"fbnet_mobile.cli.{arguments[0]}").main()
    said = capfd.readouterr().err
    assert ended.value.code == 2, said
    assert said.startswith("error: ")
    assert message in said
    assert said.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
