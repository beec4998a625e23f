import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = Path(__file__).parent / "examples"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def command_with(tmp_path: Path) -> Callable[[str], Run]:
    """Install an example as a package of its own would be, and give what runs a command of the product beside it.

    ``command_with("energy")`` makes ``examples/energy.py`` importable and names it as an entry point, as a package with
    ``[project.entry-points."fbnet_mobile.plugins"]`` does; the result runs ``run("search", "--space", "small", ...)``.
    """

    def install(example: str) -> Run:
        site = tmp_path / f"site-{example}"
        site.mkdir()
        for source in (EXAMPLES / f"{example}.py", *EXAMPLES.glob(f"{example}_*.py")):
            (site / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
        info = site / f"{example}_plugin-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {example}-plugin\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[fbnet_mobile.plugins]\n{example} = {example}\n")

        def run(name: str, *words: object, code: int = 0) -> subprocess.CompletedProcess[str]:
            program = f"from fbnet_mobile.cli.{name} import main; main()"
            done = subprocess.run(
                [sys.executable, "-c", program, *map(str, words)],
                capture_output=True,
                text=True,
                check=False,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"},
            )
            assert done.returncode == code, f"{name} {words}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            return done

        return run

    return install
