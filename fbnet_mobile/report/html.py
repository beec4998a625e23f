"""Parts of a page: tables and the like, every text in them escaped."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_MISTAKES = 12
_CLASSES = 40
"""Of a confusion matrix; one of more classes is no longer read."""


def to_json(value: Any) -> str:
    """JSON that ends no element of the page that it stands in."""
    return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def share(option: str, probability: float, *, taken: bool) -> str:
    """An option in a bar of all options of a choice, as wide as it is probable."""
    kind, text = "taken" if taken else "", escape(option)
    return (
        f'<span class="{kind}" style="width:{100 * probability:.1f}%" title="{text}: {probability:.1%}">'
        f"{text if probability > 0.09 else ''}</span>"
    )


def evaluation(found: Mapping[str, Any]) -> str:
    """Confusion matrix, classes and worst mistakes of an ``evaluation.json``."""
    names = [str(each["name"]) for each in found["classes"]]
    parts = []
    scores = [
        [str(each["name"]), f"{each['images']:,}", *(f"{each[name]:.1%}" for name in ("precision", "recall", "f1"))]
        for each in found["classes"]
    ]
    head = ["class", "images", "precision", "recall", "F1"]
    if len(names) <= _CLASSES:
        rows = []
        for name, counts in zip(names, found["confusion"], strict=True):
            total = sum(counts) or 1
            cells = "".join(
                _taken_for(name, other, int(count), total) for other, count in zip(names, counts, strict=True)
            )
            rows.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
        columns = "".join(f"<th>{escape(name)}</th>" for name in names)
        parts.append(
            f'<h3>Confusion matrix</h3><p class="note">Rows are what the {int(found["images"]):,} images are, columns '
            'what they were taken for; shades are shares of the row.</p><div class="scroll"><table class="matrix">'
            f"<tr><th></th>{columns}</tr>{''.join(rows)}</table></div>"
        )
    parts.append(f"<details><summary>Class by class</summary>{table(head, scores, texts=(0,))}</details>")
    mistakes = list(found.get("mistakes") or [])[:_MISTAKES]
    if mistakes:
        wrong = [
            [Path(str(each["image"])).name, str(each["true"]), str(each["predicted"]), f"{each['probability']:.0%}"]
            for each in mistakes
        ]
        listed = table(["image", "is", "taken for", "surely"], wrong, texts=(0, 1, 2))
        parts.append(f"<details><summary>The wrong answers that it was surest of</summary>{listed}</details>")
    return "".join(parts)


def _taken_for(name: str, other: str, count: int, total: int) -> str:
    kind = "right" if name == other else ""
    return (
        f'<td style="background:rgba(var(--shade),{0.85 * count / total:.2f})" class="{kind}" '
        f'title="{count} of {total} {escape(name)} taken for {escape(other)}">{count or ""}</td>'
    )


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, texts: Sequence[int] = (), best: Sequence[int] = ()
) -> str:
    """A table of texts, escaped; ``texts`` are columns that are no numbers, ``best`` rows that stand out."""

    def cell(tag: str, number: int, text: str) -> str:
        kind = ' class="text"' if number in texts else ""
        return f"<{tag}{kind}>{escape(text)}</{tag}>"

    def line(index: int, row: Sequence[str]) -> str:
        kind = ' class="best"' if index in best else ""
        return f"<tr{kind}>{''.join(cell('td', number, text) for number, text in enumerate(row))}</tr>"

    top = "".join(cell("th", number, text) for number, text in enumerate(head))
    first = f"<tr>{top}</tr>" if head else ""
    lines = "".join(line(index, row) for index, row in enumerate(rows))
    return f'<div class="scroll"><table>{first}{lines}</table></div>'


def bullets(lines: Sequence[str], before: str = "") -> str:
    """Warnings, one a line; nothing for none."""
    items = "".join(f'<li class="warn">{escape(before + line)}</li>' for line in lines)
    return f'<ul class="plain">{items}</ul>' if items else ""
