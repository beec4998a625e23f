"""The kinds of blocks, a folder each, and what they share.

A kind's folder holds its ``shape.py`` (plain data, which loads without PyTorch and is what the folder's package gives),
its ``module.py`` and, if it can be searched as one module, its ``masked.py``.
"""

import importlib
import pkgutil

for _kind in pkgutil.iter_modules(__path__):
    if _kind.ispkg:
        importlib.import_module(f"{__name__}.{_kind.name}")
