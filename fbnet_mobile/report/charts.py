"""Traces of plotly's, as plain data; a colour such as ``--c1`` is one of the page's."""

from collections.abc import Sequence
from html import escape
from typing import Any


def epochs(numbers: Sequence[float]) -> dict[str, Any]:
    """The axis of epochs: whole numbers."""
    return {"title": {"text": "epoch"}, **({"dtick": 1} if len(numbers) <= 12 else {})}


def line(x: Sequence[float], y: Sequence[float], name: str, colour: str, form: str) -> dict[str, Any]:
    """What moved from epoch to epoch; ``form`` is of a number where the pointer is."""
    return {
        "type": "scatter",
        "mode": "lines+markers" if len(x) < 25 else "lines",
        "x": x,
        "y": y,
        "name": escape(name),
        "line": {"color": colour, "width": 2.2},
        "marker": {"size": 5},
        "hovertemplate": f"{escape(name)} %{{y:{form}}} after epoch %{{x}}<extra></extra>",
        "showlegend": True,
    }


def markers(
    pairs: Sequence[tuple[float, float | None]], name: str, colour: str, size: int, names: Sequence[str] = ()
) -> dict[str, Any]:
    """Networks by (measured, predicted); ``names`` of each, or one for all."""
    labels = names or [name] * len(pairs)
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [pair[0] for pair in pairs],
        "y": [pair[1] for pair in pairs],
        "customdata": [
            [escape(label), (predicted or 0) / measured - 1]
            for label, (measured, predicted) in zip(labels, pairs, strict=True)
        ],
        "name": escape(name),
        "marker": {"color": colour, "size": size, "opacity": 0.85},
        "hovertemplate": "<b>%{customdata[0]}</b><br>measured %{x:.4g}<br>predicted %{y:.4g} "
        "(%{customdata[1]:+.1%})<extra></extra>",
    }


def band(low: float, high: float, share: float, opacity: float) -> dict[str, Any]:
    """Where a prediction errs by no more than a share."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [low, high, high, low],
        "y": [low * (1 - share), high * (1 - share), high * (1 + share), low * (1 + share)],
        "fill": "toself",
        "fillcolor": "--c3",
        "opacity": opacity,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "name": f"within {share:.0%}",
        "showlegend": False,
    }
