"""Stand-alone networks with the supernet's weights, sliced."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, Field

from fbnet_mobile.arch import Architecture
from fbnet_mobile.blocks.network import Network
from fbnet_mobile.engine.run_folder import STATE, read_state
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.files import read_text
from fbnet_mobile.search.recipe import Mode
from fbnet_mobile.search.results import RESULT
from fbnet_mobile.search.supernet import Supernet
from fbnet_mobile.space import Option, SearchSpace


def inherit(supernet: Supernet, assignment: Mapping[str, Option]) -> Network:
    """The network of an assignment with the first channels and kernel centres of the supernet's weights.

    Its outputs equal the supernet's for the one-hot weights of the assignment.
    """
    parts = zip(supernet.blocks, supernet.space.positions, strict=True)
    return Network(*(part.freeze(assignment) for part, position in parts if position.block(assignment) is not None))


class _Found(BaseModel):
    """Of ``result.json`` what is read again."""

    assignment: dict[str, Option]


_Colour = tuple[float, float, float]


class _Settings(BaseModel):
    """Of a search's settings what is read again."""

    space: str
    mode: Mode
    within: str = ""
    mean: _Colour = Field(alias="mean colour")
    std: _Colour = Field(alias="deviation of colours")


@dataclass(frozen=True)
class Inherited:
    """What a search leaves to the training of the network that it found.

    Attributes:
        network: with the weights that it had in the supernet.
        colours: mean and standard deviation that its images were normalised with, if they are not those of the data but
            of the trained network that was searched.
    """

    network: Network
    colours: tuple[_Colour, _Colour] | None


def inherited(folder: Path, architecture: Architecture) -> Inherited:
    """The network that a search found, with the weights of the supernet that it was found in.

    Args:
        folder: of a finished search.
        architecture: the network; must be the one that the search derived.

    Raises:
        UserError: the folder holds no finished search, or one that derived another network.
    """
    state = read_state(folder / STATE, "search")
    try:
        found = _Found.model_validate_json(read_text(folder / RESULT)).assignment
        settings = _Settings.model_validate(state["settings"])
        space = SearchSpace.model_validate_json(settings.space)
        supernet = Supernet(space, settings.mode)
        supernet.load_state_dict(state["task"]["supernet"])
        network, blocks = inherit(supernet, found), space.architecture(found).blocks
    except UserError:
        raise
    except Exception as error:  # whatever a damaged file makes of them
        raise UserError(f"{shown(folder)}: {RESULT} or {STATE} is damaged; give the search's command again") from error
    if blocks != architecture.blocks:
        raise UserError(
            f"{shown(folder)} found another network than {architecture.name}; give the folder that found it"
        )
    return Inherited(network, (settings.mean, settings.std) if settings.within else None)
