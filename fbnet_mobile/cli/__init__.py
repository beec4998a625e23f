"""The five commands: parsing of arguments and printing of results, nothing else; torch is imported late."""
