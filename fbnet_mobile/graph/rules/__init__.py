"""How torch's functions are lowered to the small operation set: a rule for each, by family."""

from fbnet_mobile.graph.rules import convolution, elementwise, pooling, resize, shape
from fbnet_mobile.graph.rules.rule import RULES, Grouped, Value, lowers

__all__ = ["RULES", "Grouped", "Value", "convolution", "elementwise", "lowers", "pooling", "resize", "shape"]
