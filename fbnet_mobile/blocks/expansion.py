"""How a space says the inner widths of a block that expands its channels."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field

from fbnet_mobile.arch.block import round_channels
from fbnet_mobile.arch.fields import STRICT


class Expansion(BaseModel):
    """An expansion of the input's channels, and whether there is squeeze-excite, as choices of a block."""

    model_config = STRICT

    expansion_ratio: Annotated[float, Field(gt=0, le=64, description="of the input's channels")]
    squeeze_excite: bool = False
    se_from: Annotated[
        Literal["expanded", "input"], Field(description="of whose width squeeze-excite's is a quarter")
    ] = "expanded"

    @classmethod
    def taken_from(cls, choices: dict[str, Any]) -> Self:
        """What choices say of it, which are then no longer among them."""
        return cls(**{name: choices.pop(name) for name in cls.model_fields if name in choices})

    def widths(self, in_channels: int) -> dict[str, int | None]:
        """The expanded width, none where it is the input's, and squeeze-excite's, none without.

        Both are rounded as in the published FBNetV2 networks. Squeeze-excite's quarter of the input is not, as in
        EfficientNet (arXiv 1905.11946).
        """
        expanded = None if self.expansion_ratio == 1 else round_channels(self.expansion_ratio * in_channels)
        squeezed = round_channels(int(0.25 * (expanded or in_channels)))
        if self.se_from == "input":
            squeezed = max(1, int(0.25 * in_channels))
        return {"expanded_channels": expanded, "se_channels": squeezed if self.squeeze_excite else None}
