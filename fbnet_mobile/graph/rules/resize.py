# ruff: noqa: A002 - rules name their arguments as torch does: input, min, max.
"""Resizing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch.nn import functional as F

from fbnet_mobile.graph.rules.rule import lowers

if TYPE_CHECKING:
    from fbnet_mobile.graph.trace import Watch


@lowers(F.interpolate)
def _interpolate(
    to: Watch,
    input: Any,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    if mode not in ("nearest", "bilinear") or antialias or len(input.shape) != 4:
        raise to.refused("only 'nearest' and 'bilinear' without antialias, on feature maps, can be")
    if scale_factor is not None and not recompute_scale_factor:
        factors = scale_factor if isinstance(scale_factor, tuple | list) else (scale_factor, scale_factor)
        exact = [length * factor for length, factor in zip(input.shape[2:], factors, strict=True)]
        if exact != list(to.result.shape[2:]):
            raise to.refused(f"the factor {scale_factor} does not give a whole size; give the size")
    if tuple(to.result.shape) == input.shape:
        return input
    return to.add("resize", input, mode=mode, align_corners=bool(align_corners))
