"""The order in which a file keeps the axes of a value.

Feature maps are kept with their channels last, as TFLite's convolutions take them, whatever else in the order that
costs least: a layout is a tuple of the value's axes, as PyTorch counts them, in the order in which they are kept. So
an operation that only reorders axes moves nothing, as its result is what was there under another layout, and axes are
moved where an operation needs them in an order that they are not in.
"""

from collections.abc import Sequence

Layout = tuple[int, ...]
Shape = tuple[int, ...]


def plain(rank: int) -> Layout:
    """PyTorch's own order."""
    return tuple(range(rank))


def usual(rank: int) -> Layout:
    """Channels last for a feature map of four axes, PyTorch's order for anything else."""
    return (0, 2, 3, 1) if rank == 4 else plain(rank)


def arranged(items: Sequence[int], layout: Layout) -> Shape:
    """One item an axis, such as the shape, in the order of a layout."""
    return tuple(items[axis] for axis in layout)


def permuted(layout: Layout, axes: Sequence[int]) -> Layout:
    """The layout under which what was kept in ``layout`` is the same with its axes permuted."""
    return tuple(axes.index(axis) for axis in layout)


def same_order(shape: Shape, first: Layout, second: Layout) -> bool:
    """Whether numbers lie in the same order in two layouts: where an axis of one number stands makes no difference."""
    kept, wanted = ([axis for axis in layout if shape[axis] > 1] for layout in (first, second))
    return kept == wanted


def last(layout: Layout, axis: int) -> Layout:
    """The same layout but with an axis at its end."""
    return (*(other for other in layout if other != axis), axis)


def without(layout: Layout, axes: Sequence[int]) -> Layout:
    """The layout that is left when axes are reduced away."""
    kept = [axis for axis in range(len(layout)) if axis not in axes]
    return tuple(kept.index(axis) for axis in layout if axis in kept)


def reshaped(before: Shape, layout: Layout, after: Shape) -> tuple[Layout, Layout]:
    """How to view a value of the shape ``before``, kept in a layout, as one of the shape ``after``.

    The axes fall into groups: those of a group, before, hold the same numbers as those of it, after. A group's axes
    must lie side by side and in PyTorch's order; groups may lie in any.

    Returns:
        The layout that it must be moved to first, and that of the result.
    """
    groups = _groups(before, after)
    place = {axis: number for number, axis in enumerate(layout)}
    groups.sort(key=lambda group: min((place[axis] for axis in group[0]), default=-1))
    needed = tuple(axis for group in groups for axis in group[0])
    needed = _with_ones(needed, len(before))
    found = _with_ones(tuple(axis for group in groups for axis in group[1]), len(after))
    if len(after) == 4 and after[2] == after[3] == 1 and same_order(after, found, usual(4)):
        found = usual(4)  # the same numbers in the same order, and what reads a feature map wants it so
    return (layout if same_order(before, layout, needed) else needed), found


def _groups(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The least groups of axes of more than one number that hold the same."""
    axes = [[axis for axis, size in enumerate(shape) if size > 1] for shape in (before, after)]
    groups: list[tuple[list[int], list[int]]] = []
    while axes[0] or axes[1]:
        group: tuple[list[int], list[int]] = ([axes[0].pop(0)], [axes[1].pop(0)])
        sizes = [before[group[0][0]], after[group[1][0]]]
        while sizes[0] != sizes[1]:
            less = 0 if sizes[0] < sizes[1] else 1
            axis = axes[less].pop(0)
            group[less].append(axis)
            sizes[less] *= (before, after)[less][axis]
        groups.append(group)
    return groups


def _with_ones(order: Layout, rank: int) -> Layout:
    """A layout of all axes, from that of those of more than one number: the others stand where they stood."""
    layout = list(order)
    for axis in range(rank):
        if axis not in order:
            layout.insert(0 if axis == 0 else layout.index(axis - 1) + 1, axis)
    return tuple(layout)
