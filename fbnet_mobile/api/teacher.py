"""A teacher from what names it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fbnet_mobile.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from fbnet_mobile.engine.losses import Colours, Teacher


def open_teacher(text: str, classes: Sequence[str], given: "Colours", fabric: "Fabric") -> "Teacher | None":
    """That of a checkpoint, or a network of timm or torchvision with its weights; None for no text.

    Such a network must tell as many classes apart as the data have, in the order of the data's folders: ImageNet's are
    for folders that are named by WordNet id.

    Args:
        text: a path, or ``timm:NAME`` or ``torchvision:NAME``.
        classes: of the data.
        given: mean and standard deviation of each channel that the images are normalised with.
        fabric: where it runs.

    Raises:
        UserError: there is no such network, its weights cannot be had, or it is for other classes.
    """
    if not text:
        return None
    from fbnet_mobile.engine.losses import Teacher

    library, colon, _ = text.partition(":")
    if not colon or library not in ("timm", "torchvision"):
        return Teacher.load(Path(text), classes, given, fabric)

    from fbnet_mobile.zoo.peers import load_peer

    with fabric.rank_zero_first():
        peer = load_peer(text, pretrained=True)
    if len(peer.metadata.classes) != len(classes):
        raise UserError(
            f"the teacher {text} has {len(peer.metadata.classes)} classes where the data have {len(classes)}; "
            "train it on these data first (its checkpoint is then a teacher), or give another"
        )
    seen = peer.metadata.mean, peer.metadata.std
    return Teacher(peer.module, seen, peer.input_shape[-1], given, fabric, text)
