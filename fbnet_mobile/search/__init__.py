"""DMaskingNAS: the supernet with masked choices, its expected cost, the search loop, and deriving an architecture."""

from fbnet_mobile import make_callable

make_callable(__name__)
