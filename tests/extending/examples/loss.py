"""A loss from outside: the network is to agree with a teacher in its answer alone (pseudo-labels, Lee 2013)."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from fbnet_mobile.engine.losses import LOSSES, Loss, Teach


class Answers(Loss):
    """Cross-entropy with the teacher's most probable class in the place of the label."""

    needs_teacher: ClassVar[bool] = True

    def __call__(self, logits: Tensor, labels: Tensor, images: Tensor, teacher: Teach | None) -> Tensor:
        assert teacher is not None
        return F.cross_entropy(logits, teacher(images).argmax(1))


LOSSES.add("answers", Answers)
