"""The results file of a benchmark: its numbers with the machine, the versions and the options that gave them."""

import argparse
import json
import platform
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fbnet_mobile.devices import HostDevice

_PLACES = {"output", "data", "data_root", "peer_python"}


def write_results(
    path: Path, results: Mapping[str, Any], options: argparse.Namespace, packages: Iterable[str] = ()
) -> None:
    """Write the results, without the paths of the machine that they come from.

    Args:
        path: of the JSON file; its folder is made.
        results: the numbers, by name.
        options: as the user gave them; of a path only the name is kept, and places of this machine not at all.
        packages: whose versions to state, besides torch's.
    """
    facts = HostDevice().facts()
    content = {
        "machine": {"cpu": facts.cpu, "cores": facts.cores, "system": facts.operating_system},
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", *packages)},
        },
        "options": {
            name: value.name if isinstance(value, Path) else str(value)
            for name, value in vars(options).items()
            if name not in _PLACES
        },
        **results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
