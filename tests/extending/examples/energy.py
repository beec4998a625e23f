"""A cost from outside: energy, read from a column ``energy_mJ`` that was added to a latency table."""

from fbnet_mobile.arch import Block
from fbnet_mobile.cost.quantity import QUANTITIES, Quantity, parse_amount
from fbnet_mobile.errors import UserError
from fbnet_mobile.latency.table import BLOCK, INVOCATION, LatencyTable


class Energy(Quantity):
    """What a network takes from the battery for one image, in millijoules."""

    name = "energy"
    unit = "mJ"
    from_table = True
    example = "3mJ"
    help = "Most energy for one image."

    def block_cost(self, block: Block, table: LatencyTable | None) -> float:
        """Each block was measured as a model of its own, so without the invocation that all of them hold."""
        return max(0.0, self._row(table, LatencyTable.row_key(BLOCK, [block])) - self.fixed(table))

    def fixed(self, table: LatencyTable | None) -> float:
        """One invocation."""
        return self._row(table, LatencyTable.row_key(INVOCATION))

    def parse(self, text: str) -> float:
        """Millijoules from ``3mJ`` or ``0.5J``."""
        return parse_amount(text, {"mJ": 1.0, "J": 1e3}, "an energy; write a number with its unit, such as 3mJ")

    @staticmethod
    def _row(table: LatencyTable | None, key: tuple[str, str]) -> float:
        column = table.extra.get("energy_mJ", {}) if table else {}
        if key not in column:
            raise UserError(f"the table has no energy_mJ for {key[1] or key[0]!r}; add the column, for every block")
        return column[key]


QUANTITIES.add("energy", Energy())
