"""The five commands: parsing of arguments and printing of results, nothing else. Torch is imported only when it is needed."""
