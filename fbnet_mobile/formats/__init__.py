"""From a PyTorch network to a file a device runs, checked against PyTorch.

:mod:`trace` lowers a module to the small operation set of :mod:`graph`; :mod:`formats` finds the emitter of a
file format; :mod:`verify` does it all and proves the result. Nothing heavy is imported here.
"""
