"""Search spaces: which networks there are to choose from, as YAML."""

from fbnet_mobile.space.space import Option, Position, SearchSpace, Stage, load_space, packaged_spaces

__all__ = ["Option", "Position", "SearchSpace", "Stage", "load_space", "packaged_spaces"]
