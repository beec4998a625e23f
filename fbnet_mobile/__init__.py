"""FBNetV2's DMaskingNAS with measured latency: profile a device, search, train, export, benchmark."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fbnet-mobile")
except PackageNotFoundError:  # imported from a source tree that was never installed
    __version__ = "unknown"
