"""What can be counted or measured of a network, block by block, and limited: one class for each cost.

To add one, subclass ``Quantity`` and register an instance: ``fbnet-search`` then has ``--max-NAME`` for it.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.registry import Registry

if TYPE_CHECKING:  # options are made from this module, and these take longer to load than help may take
    from fbnet_mobile.arch import Block
    from fbnet_mobile.latency.table import LatencyTable

_THOUSANDS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}


class Quantity(ABC):
    """A cost that a network has by its blocks.

    Attributes:
        name: the cost in a word or two, as in ``--max-NAME``, with underscores.
        unit: of its values; empty for a count.
        combine: whether the cost of a network is the ``sum`` of its blocks' or the largest (``max``).
        from_table: whether it is read from a latency table, which a search then needs.
        example: a limit as a user writes it.
        help: what a limit on it is, for the option's help.
    """

    name: ClassVar[str]
    unit: ClassVar[str] = ""
    combine: ClassVar[Literal["sum", "max"]] = "sum"
    from_table: ClassVar[bool] = False
    example: ClassVar[str]
    help: ClassVar[str]

    @abstractmethod
    def block_cost(self, block: "Block", table: "LatencyTable | None") -> float:
        """What a block adds to a network, in ``unit``; a finite number that is not negative.

        Args:
            block: at its input shape.
            table: of the device; None only if the quantity is not ``from_table``.

        Raises:
            UserError: the table does not know the block.
        """

    def fixed(self, table: "LatencyTable | None") -> float:
        """What every network costs besides its blocks, in ``unit``; of a ``sum`` only."""
        del table
        return 0.0

    def parse(self, text: str) -> float:
        """A limit from what a user writes, in ``unit``.

        Raises:
            UserError: it is no positive number with one of the units that are known.
        """
        return parse_amount(text, _THOUSANDS, "a count; write a number such as 1.5M or 300k")

    def readable(self, value: float) -> str:
        """A value for people, with its unit."""
        return f"{value:,.4g} {self.unit}" if self.unit else f"{value:,.0f}"

    @property
    def column(self) -> str:
        """Its name with its unit, as in ``log.csv`` and ``result.json``."""
        return f"{self.name}_{self.unit}" if self.unit else self.name

    @property
    def option(self) -> str:
        """The option of ``fbnet-search`` that limits it."""
        return f"--max-{self.name.replace('_', '-')}"


QUANTITIES: Registry[Quantity] = Registry("cost")


def parse_amount(text: str, units: Mapping[str, float], what: str) -> float:
    """A positive number with one of some units, such as ``3mJ``.

    Args:
        text: what a user wrote.
        units: what one of each unit is.
        what: what it should be and how to write it, for the message.

    Raises:
        UserError: it is no positive, finite number with one of the units.
    """
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([^\W\d_]*)\s*", text)
    value = float(match[1]) * units.get(match[2], math.nan) if match else math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"'{shown(text, 40)}' is not {what}")
    return value


class Latency(Quantity):
    """What the table predicts that a network takes on its device, in microseconds."""

    name = "latency"
    unit = "us"
    from_table = True
    example = "12ms"
    help = "Most time for one image."

    def block_cost(self, block: "Block", table: "LatencyTable | None") -> float:
        """Calibrated on the table's whole networks."""
        assert table is not None
        return table.block_us(block)

    def fixed(self, table: "LatencyTable | None") -> float:
        """The runtime's invocation."""
        assert table is not None
        return table.fixed_us

    def parse(self, text: str) -> float:
        """Microseconds from ``12ms``, ``350us`` or ``0.1s``."""
        units = {"us": 1.0, "ms": 1e3, "s": 1e6}
        return parse_amount(text, units, "a latency; write a number with its unit, such as 12ms or 350us")

    def readable(self, value: float) -> str:
        """In microseconds, to a tenth."""
        return f"{value:.1f} us"


class _Counted(Quantity):
    """What a block says of itself under the quantity's name."""

    def block_cost(self, block: "Block", table: "LatencyTable | None") -> float:
        """The block's own count."""
        return float(getattr(block, self.name))


class Macs(_Counted):
    """Multiply-accumulates of convolutions and linear layers, for one image."""

    name = "macs"
    example = "60M"
    help = "Most multiply-accumulates."


class Params(_Counted):
    """Trainable parameters, biases and batch norm included."""

    name = "params"
    example = "1.5M"
    help = "Most parameters."


class PeakActivations(_Counted):
    """The most values of feature maps that are alive at once, for one image."""

    name = "peak_activations"
    combine = "max"
    example = "400k"
    help = "Most values of feature maps alive at once; in float32, 4 bytes each."


for _quantity in (Latency(), Macs(), Params(), PeakActivations()):
    QUANTITIES.add(_quantity.name, _quantity)
