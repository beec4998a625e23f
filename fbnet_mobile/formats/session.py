"""What runs a model file: the contract every runtime keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fbnet_mobile.errors import UserError

if TYPE_CHECKING:  # choosing a runtime should not wait for numpy
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]


class Session(ABC):
    """A loaded model of one input and one output, whatever its own layout.

    A call does all there is; whoever measures sets an input once and then calls :meth:`invoke` alone.
    """

    @property
    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the input, (batch, channels, height, width); a batch of 0 if any will do."""

    takes_pixels: bool = False
    """Whether the images are uint8, from 0 to 255, rather than float32 and normalised."""

    @abstractmethod
    def set_input(self, images: NDArray[Any]) -> None:
        """Copy in images of :attr:`input_shape`; uint8 or float32, see :attr:`takes_pixels`."""

    @abstractmethod
    def invoke(self) -> None:
        """Run the network on what was set."""

    @abstractmethod
    def output(self) -> Array:
        """Return the last result: (batch, classes), or a feature map (batch, channels, height, width)."""

    def __call__(self, images: NDArray[Any]) -> Array:
        """Run any number of images, as many at a time as the file takes.

        Args:
            images: (N, channels, height, width); uint8 or float32, see :attr:`takes_pixels`.

        Returns:
            (N, classes), or (N, channels, height, width) for a network that ends in a feature map.

        Raises:
            UserError: the shape does not fit the model's, or it takes pixels and these are none.
        """
        batch, *rest = self.input_shape
        if list(images.shape[1:]) != rest or len(images) == 0 or (batch and len(images) % batch):
            wanted = ", ".join(str(size) for size in rest)
            raise UserError(
                f"the model takes images of shape ({batch or 'N'}, {wanted}), not {images.shape}; resize "
                "them, or export the model for that size"
            )
        import numpy as np

        if self.takes_pixels and images.dtype != np.uint8:
            raise UserError(f"the model takes uint8 pixels, not {images.dtype}; give images that are not normalised")
        images = np.ascontiguousarray(images, np.uint8 if self.takes_pixels else np.float32)
        step = batch or len(images)
        outputs = []
        for start in range(0, len(images), step):
            self.set_input(images[start : start + step])
            self.invoke()
            outputs.append(self.output())
        return np.concatenate(outputs)


class Runtime(ABC):
    """A library that runs files of one format on this machine."""

    name: str
    """As users write it."""

    format: str
    """Name of the format it runs."""

    @abstractmethod
    def version(self) -> str:
        """Return the version of the library; UserError with the line that installs it if it is missing."""

    @abstractmethod
    def load(self, path: Path, threads: int = 1) -> Session:
        """Load a model.

        Args:
            path: the file or folder.
            threads: number of CPU threads to compute with.

        Raises:
            UserError: there is no such file, it is damaged or of another format, or the library is missing.
        """


def existing(path: Path) -> Path:
    """Return ``path``; UserError if nothing is there."""
    if not path.exists():
        raise UserError(f"there is no model at {path}; check the path")
    return path


def unreadable(path: Path, runtime: str, error: Exception) -> UserError:
    """Return the error for a file that ``runtime`` cannot load."""
    lines = str(error).strip().splitlines()
    return UserError(f"{runtime} cannot load {path}: {lines[0] if lines else error!r}; export the model again")
