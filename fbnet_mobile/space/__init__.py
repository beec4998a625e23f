"""Search spaces: which networks there are to choose from, as YAML."""

from fbnet_mobile.space.positions import CANDIDATE, RESOLUTION, Option, Position
from fbnet_mobile.space.schema import Candidate, Stage
from fbnet_mobile.space.space import SearchSpace, load_space, packaged_spaces

__all__ = [
    "CANDIDATE",
    "RESOLUTION",
    "Candidate",
    "Option",
    "Position",
    "SearchSpace",
    "Stage",
    "load_space",
    "packaged_spaces",
]
