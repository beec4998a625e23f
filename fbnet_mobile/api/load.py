"""Spaces and networks by name or file, for notebooks."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.space import SearchSpace


def load_space(name_or_path: "str | os.PathLike[str]") -> "SearchSpace":
    """A packaged search space by its name, or one of a YAML file.

    Raises:
        UserError: there is none, or the file is no search space.
    """
    from fbnet_mobile.space import load_space as load

    return load(os.fspath(name_or_path))


def load_network(name_or_path: "str | os.PathLike[str]") -> "Architecture":
    """A published network by its name, or one of an architecture file, such as a search wrote.

    Raises:
        UserError: there is none, or the file is no architecture.
    """
    from fbnet_mobile.zoo import load_architecture

    return load_architecture(os.fspath(name_or_path))
