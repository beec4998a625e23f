"""How torch's functions are lowered to the small operation set: a rule for each, by family."""

from fbnet_mobile.graph.rules import convolution, elementwise, matrix, normalisation, pooling, resize, shape
from fbnet_mobile.graph.rules.rule import RULES, Rule, Value, composes, lowers

__all__ = [
    "RULES", "Rule", "Value", "composes", "convolution", "elementwise", "lowers", "matrix", "normalisation", "pooling",
    "resize", "shape",
]  # fmt: skip
