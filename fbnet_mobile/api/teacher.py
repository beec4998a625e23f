"""A teacher from what names it."""

from typing import TYPE_CHECKING

from fbnet_mobile.errors import UserError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from fbnet_mobile.data.data import Data
    from fbnet_mobile.engine.losses import Teacher


def open_teacher(text: str, data: "Data", fabric: "Fabric") -> "Teacher | None":
    """A network of timm or torchvision with its weights, as a teacher; None for a checkpoint, or for no text.

    It must tell as many classes apart as the data have, in the order of the data's folders: ImageNet's networks are for
    folders that are named by WordNet id.

    Raises:
        UserError: there is no such network, its weights cannot be had, or it is for other classes.
    """
    library, colon, _ = text.partition(":")
    if not colon or library not in ("timm", "torchvision"):
        return None

    from fbnet_mobile.engine.losses import Teacher
    from fbnet_mobile.zoo.peers import load_peer

    with fabric.rank_zero_first():
        peer = load_peer(text, pretrained=True)
    if len(peer.metadata.classes) != len(data.classes):
        raise UserError(
            f"the teacher {text} has {len(peer.metadata.classes)} classes where the data have {len(data.classes)}; "
            "train it on these data first (its checkpoint is then a teacher), or give another"
        )
    seen = peer.metadata.mean, peer.metadata.std
    return Teacher(peer.module, seen, peer.input_shape[-1], (data.mean, data.std), fabric, text)
