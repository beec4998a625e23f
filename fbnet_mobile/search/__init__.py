"""DMaskingNAS: the supernet with masked choices, its expected cost, the search loop, and deriving an architecture."""
