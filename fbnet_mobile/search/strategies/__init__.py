"""How a search chooses: one file a strategy."""
