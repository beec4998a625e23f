import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fbnet_mobile.formats.int8 import Quantiser, quantise
from fbnet_mobile.formats.ranges import Ranges


class SpoiltByWideRanges(Quantiser):
    """Files that give what they read, in the wrong order if the range of the input is over 2."""

    suffix, in_pairs = ".json", False

    def reads(self) -> Mapping[str, tuple[str, ...]]:
        return {"output": ("input",)}

    def values(self, images: Any, quantised: Path | None = None) -> Iterator[Mapping[str, Any]]:
        return ({"input": image[None], "output": image[None]} for image in images)

    def session(self, quantised: Path | None = None) -> Any:
        spoilt = quantised is not None and json.loads(quantised.read_text())["input"][1] > 2
        return lambda images: images.reshape(len(images), -1)[:, :: -1 if spoilt else 1]

    def write(self, ranges: Ranges, keep: Collection[str], target: Path, source: Path | None = None) -> None:
        target.write_text(json.dumps(ranges))


def test_ranges_of_all_images_are_not_taken_where_those_of_half_lose_less(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((32, 1, 2, 2), np.float32)
    for wide, taken in ((5.0, False), (1.5, True)):
        images[1, 0, 0, 0] = wide
        path = tmp_path / f"{wide}.json"
        quantise(SpoiltByWideRanges(), images, path, "min-max", ())
        assert (json.loads(path.read_text())["input"][1] > 1) is taken
