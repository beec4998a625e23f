"""Training: images, augmentation, the training loop, checkpoints and the accuracy of a trained network.

Import from the modules (``fbnet_mobile.train.loop`` and so on); this package itself does not load torch.
"""

from fbnet_mobile import make_callable

make_callable(__name__)
