import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# Tests run small networks, for which threads cost more than they gain, and next to other programs much more.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Processes that tests start use the code of this tree too, whichever is installed.
ROOT = str(Path(__file__).parents[1])
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="session", autouse=True)
def _own_lock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The lock of this machine lies where these tests alone see it: others may run, or measure, beside them."""
    with pytest.MonkeyPatch.context() as patch:
        folder = str(tmp_path_factory.mktemp("tmp"))
        patch.setattr(tempfile, "tempdir", folder)
        patch.setenv("TMPDIR", folder)
        yield


MakeFolder = Callable[..., Path]


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Write noisy pictures, one colour per class: ``make_folder({"train/red": 8}, size=(20, 16))``."""

    def make(counts: dict[str, int], size: tuple[int, int] = (20, 16), suffix: str = ".png") -> Path:
        root = tmp_path / "images"
        draw = np.random.default_rng(0)
        names = sorted({Path(name).name for name in counts})
        for name, count in counts.items():
            folder = root / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = draw.integers(0, 100, (size[1], size[0], 3), dtype=np.uint8)
                pixels[..., names.index(Path(name).name) % 3] += 120
                Image.fromarray(pixels).save(folder / f"{number}{suffix}")
        return root

    return make
