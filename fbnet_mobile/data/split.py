"""Dividing labelled images, and the order in which a network sees them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fbnet_mobile.data.augment import derive_seed, draw
from fbnet_mobile.data.recipe import CROP_AREA
from fbnet_mobile.data.sources.base import Images
from fbnet_mobile.data.store import Change, Request, Store
from fbnet_mobile.errors import UserError

HELD_OUT = 0.1
"""Part of the training images that becomes the validation or the test images where the source has none."""


@dataclass(frozen=True, eq=False)
class Split:
    """Some of the images of a store, with their labels.

    Attributes:
        store: what holds the images.
        index: (N,) int64, which images of the store these are.
        labels: (N,) int64, the class of each.
    """

    store: Store
    index: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def split(self, fraction: float, seed: int = 0) -> "tuple[Split, Split]":
        """Divide into two disjoint parts, the first with ``fraction`` of each class (at least one image).

        Raises:
            UserError: ``fraction`` is not between 0 and 1.
        """
        if not 0 < fraction < 1:
            raise UserError(f"cannot split images at a fraction of {fraction:g}; give one between 0 and 1")
        first, second = stratified(self.labels, fraction, seed)
        return self.pick(first), self.pick(second)

    def limit(self, count: int, seed: int = 0) -> "Split":
        """About ``count`` images with each class in its share; all of them if there are no more than that.

        Raises:
            UserError: ``count`` is below the number of classes.
        """
        return self.pick(limited(self.labels, count, seed))

    def pick(self, positions: Tensor) -> "Split":
        """The images at these positions."""
        return replace(self, index=self.index[positions], labels=self.labels[positions])

    def batches(self, batch_size: int, *, rank: int = 0, world_size: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """All images once, in their stored order; the last batch may be short.

        Args:
            batch_size: images in a batch of all processes together.
            rank: this process, which gets images ``rank``, ``rank + world_size``, ... of each batch.
            world_size: number of processes.

        Yields:
            (B, 3, R, R) uint8 pixels and (B,) int64 labels.
        """
        chosen = [part[rank::world_size] for part in torch.split(torch.arange(len(self)), batch_size)]
        chosen = [part for part in chosen if len(part)]
        images = self.store.fetch([Request(self.index[part]) for part in chosen])
        for part, pixels in zip(chosen, images, strict=True):
            yield pixels, self.labels[part]

    def names(self) -> list[str]:
        """How messages name the images."""
        return [self.store.name(number) for number in self.index.tolist()]

    def at(self, resolution: int) -> "Split":
        """The same images at another size, where the store can give them so."""
        return replace(self, store=self.store.at(resolution))

    def shuffled(
        self,
        batch_size: int,
        *,
        seed: int,
        epoch: int,
        cut: float | None = CROP_AREA,
        change: Change | None = None,
        repeats: int = 1,
        weights: Tensor | None = None,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of full batches in an order that depends on (seed, epoch) alone; the rest is left out.

        Args:
            batch_size: images in a batch of all processes together; a multiple of ``world_size``.
            seed: together with ``epoch`` decides the order.
            epoch: number of the epoch.
            cut: the least share of the area that a store with the originals cuts out at random; None for the middle.
            change: what is done to each batch, by whoever makes it.
            repeats: how often an image is in the epoch, of as many fewer images (arXiv 1902.05509).
            weights: (N,) how often each image is drawn, with replacement, on average; None for each once.
            start: the first batch, where an epoch is taken up in its middle.
            rank: this process, which gets images ``rank``, ``rank + world_size``, ... of each batch.
            world_size: number of processes.

        Yields:
            (B, 3, R, R) uint8 pixels and (B,) int64 labels, B being ``batch_size / world_size``.

        Raises:
            UserError: there is not one full batch, or it cannot be shared out evenly.
        """
        steps = self.steps(batch_size)
        if batch_size % world_size:
            raise UserError(
                f"a batch of {batch_size} images cannot be shared by {world_size} processes; "
                f"use a batch size that is a multiple of {world_size}"
            )
        generator = torch.Generator().manual_seed(derive_seed(seed, epoch))
        if weights is None:
            order = torch.randperm(len(self), generator=generator)
        else:
            order = torch.multinomial(weights.double(), len(self), replacement=True, generator=generator)
        order = order.repeat_interleave(repeats)[: len(self)]
        requests, chosen = [], []
        for step in range(start, steps):
            part = order[step * batch_size : (step + 1) * batch_size][rank::world_size]
            draws = None
            if cut is not None and self.store.cuts:
                draws = draw("crop", 4, batch_size, (seed, epoch, step))[rank::world_size]
            requests.append(Request(self.index[part], step, draws, cut or 1.0))
            chosen.append(part)
        for part, pixels in zip(chosen, self.store.fetch(requests, change), strict=True):
            yield pixels, self.labels[part]

    def steps(self, batch_size: int) -> int:
        """How many full batches an epoch has.

        Raises:
            UserError: not even one.
        """
        if not 0 < batch_size <= len(self):
            raise UserError(
                f"{len(self)} training images do not fill a batch of {batch_size}; "
                f"use a batch size from 1 to {len(self)}, or more images"
            )
        return len(self) // batch_size


def hold_out(
    parts: Mapping[str, Images], classes: Sequence[str], source: str, seed: int
) -> dict[str, tuple[Images, Tensor]]:
    """Choose the images of each part, taking those of missing parts out of the training images.

    Args:
        parts: images of ``train``, and of ``val`` and ``test`` where there are some.
        classes: class names, in the order of the labels.
        source: for messages.
        seed: decides which are taken.

    Returns:
        Of ``train``, ``val`` and ``test`` the images, and which of them: (N,) int64.

    Raises:
        UserError: a class has too few.
    """
    drawn = {part: (images, torch.arange(len(images.labels))) for part, images in parts.items()}
    images, positions = drawn["train"]
    missing = [part for part in ("val", "test") if part not in parts]
    counts = torch.bincount(images.labels, minlength=len(classes))
    if counts.min() <= len(missing):
        smallest = int(counts.argmin())
        raise UserError(
            f"class {classes[smallest]} of {source} has only {int(counts[smallest])} training images; "
            f"give at least {len(missing) + 1}, as some are held out for {' and '.join(missing)}"
        )
    for part in missing:
        share = HELD_OUT * len(images.labels) / len(positions)
        kept, taken = stratified(images.labels[positions], 1 - share, seed, rest=1)
        drawn[part] = images, positions[taken]
        positions = positions[kept]
    drawn["train"] = images, positions
    return drawn


def stratified(labels: Tensor, fraction: float, seed: int, rest: int = 0) -> tuple[Tensor, Tensor]:
    """Positions of ``fraction`` of each class, and those of the others, both in rising order."""
    generator = torch.Generator().manual_seed(derive_seed(seed))
    first, second = [], []
    for label in torch.unique(labels):
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        count = min(max(1, round(fraction * len(members))), max(1, len(members) - rest))
        first.append(members[:count])
        second.append(members[count:])
    return torch.cat(first).sort().values, torch.cat(second).sort().values


def limited(labels: Tensor, count: int, seed: int) -> Tensor:
    """Positions of about ``count`` images, each class in its share, in rising order.

    Raises:
        UserError: ``count`` is below the number of classes.
    """
    present = len(torch.unique(labels))
    if count < present:
        raise UserError(f"cannot keep {count} images of {present} classes; keep at least one of each")
    if count >= len(labels):
        return torch.arange(len(labels))
    return stratified(labels, count / len(labels), seed)[0]
