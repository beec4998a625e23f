"""The six commands: options made from recipes, one call, printing of its record; torch is imported late."""
