import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from fbnet_mobile.formats.base import format_of, read_metadata
from fbnet_mobile.formats.metadata import ModelMetadata
from fbnet_mobile.formats.verify import export
from fbnet_mobile.graph.pixels import Normalisation

from .networks import calibrated, mobile_network

NAMES = ["crane", "Äpfel", "梨", *"abcdef", "crane"]
LABELS = ["crane (0)", "Äpfel", "梨", *"abcdef", "crane (9)"]


def program(path: Path) -> tuple[Any, Any]:
    """The package's description, and its ML program."""
    spec = ct.models.MLModel(str(path), skip_model_load=True).get_spec()
    return spec.description, spec.mlProgram


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_network_with_class_names_is_a_classifier_of_images(precision: str, tmp_path: Path) -> None:
    path, metadata = tmp_path / "m.mlpackage", {"classes": json.dumps(NAMES)}
    report = export(
        mobile_network(),
        path,
        format="coreml",
        input_shape=(1, 3, 33, 33),
        metadata=metadata,
        precision=precision,
        pixels=Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    )
    assert report.relative_difference < {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.1}[precision]
    assert read_metadata(path) == metadata
    description, written = program(path)
    image = description.input[0].type.imageType
    assert (image.width, image.height, image.colorSpace) == (33, 33, image.ColorSpace.Value("RGB"))
    kinds = {output.name: output.type.WhichOneof("Type") for output in description.output}
    assert kinds == {"classLabel": "stringType", "classLabel_probs": "dictionaryType", "output": "multiArrayType"}
    assert (description.predictedFeatureName, description.predictedProbabilitiesName) == (
        "classLabel",
        "classLabel_probs",
    )
    (block,) = written.functions["main"].block_specializations.values()
    by_output = {output.name: operation for operation in block.operations for output in operation.outputs}
    classify = by_output["classLabel"]
    labels = classify.inputs["classes"].arguments[0].value.immediateValue.list.values
    assert [label.immediateValue.tensor.strings.values[0] for label in labels] == LABELS

    # What it names is the softmax of the logits, in whatever precision.
    read = by_output[classify.inputs["probabilities"].arguments[0].name]
    while read.type == "cast":
        read = by_output[read.inputs["x"].arguments[0].name]
    assert read.type == "softmax"
    logits = by_output["output"]
    while logits.type == "cast":
        logits = by_output[logits.inputs["x"].arguments[0].name]
    assert read.inputs["x"].arguments[0].name == logits.outputs[0].name


@pytest.mark.parametrize(
    ("module", "classes"),
    [
        (mobile_network(), []),
        (nn.Conv2d(3, 10, 3), NAMES),
    ],
)
def test_what_has_no_name_for_each_logit_is_no_classifier(
    module: nn.Module, classes: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "m.mlpackage"
    metadata = {"classes": json.dumps(classes)}
    export(module, path, format="coreml", input_shape=(1, 3, 33, 33), metadata=metadata, tolerance=1e-4)
    description, _ = program(path)
    assert [output.name for output in description.output] == ["output"]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_what_ends_in_probabilities_names_those(precision: str, tmp_path: Path) -> None:
    path, module = tmp_path / "m.mlpackage", nn.Sequential(mobile_network(), nn.Softmax(1))
    said = ModelMetadata("", tuple(NAMES), (0.5,) * 3, (0.25,) * 3, author="A", license="MIT", version="3")
    said = replace(said, description="Of cranes.", input="uint8", precision=precision, scores="probabilities")
    pixels = Normalisation(said.mean, said.std)
    export(
        module,
        path,
        format="coreml",
        input_shape=(1, 3, 33, 33),
        precision=precision,
        metadata=said.to_strings(),
        pixels=pixels,
        probabilities=True,
    )
    description, written = program(path)
    assert [output.name for output in description.output] == ["classLabel", "classLabel_probs", "output"]
    (block,) = written.functions["main"].block_specializations.values()
    assert [operation.type for operation in block.operations].count("softmax") == 1
    known = description.metadata
    assert (known.shortDescription, known.author, known.license, known.versionString) == ("Of cranes.", "A", "MIT", "3")
    assert known.userDefined["com.apple.coreml.model.preview.type"] == "imageClassifier"
    assert ModelMetadata.from_strings(read_metadata(path)) == said


def test_a_grey_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = calibrated(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()), 1, 6)
    path = tmp_path / "m.mlpackage"
    export(network, path, format="coreml", input_shape=(1, 1, 6, 8), pixels=Normalisation([0.4], [0.2]), tolerance=1e-5)
    session = format_of(path).load(path)
    assert (session.input_shape, session.takes_pixels) == ((1, 1, 6, 8), True)
    assert session(np.zeros((2, 1, 6, 8), np.uint8)).shape == (2, 4, 6, 8)


def test_squares_of_a_large_group_norm_do_not_overflow_when_fp16_is_evaluated(tmp_path: Path) -> None:
    """coremltools sums 81,920 squares in the precision of the values, which ends at 65,504 in fp16."""
    path = tmp_path / "m.mlpackage"
    report = export(
        nn.GroupNorm(1, 64), path, format="coreml", input_shape=(1, 64, 32, 40), precision="fp16", tolerance=1e-2
    )
    assert report.relative_difference > 0
