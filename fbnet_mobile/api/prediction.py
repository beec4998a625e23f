"""Whether a latency table speaks of a model file on a device, and what it says."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.latency.table import LatencyTable


def predict(
    table: "LatencyTable",
    network: "Architecture | None",
    *,
    device: str,
    cpu: str,
    runtime: str,
    runtime_version: str,
    threads: int,
    precision: str | None,
    format: str,  # noqa: A002
) -> tuple[float | None, str]:
    """What a table predicts for a network, in microseconds, or why it does not.

    Args:
        table: of the device.
        network: None if the file holds no architecture.
        device: its name, as the table names it.
        cpu: its processor.
        runtime: that runs the file.
        runtime_version: of that.
        threads: of that.
        precision: of the file; None if it does not say.
        format: of the file.
    """
    if network is None:
        return None, "the network is not made of a search space's blocks"
    measured = {
        "device": device,
        "cpu": cpu,
        "runtime": runtime,
        "runtime_version": runtime_version,
        "threads": threads,
        "precision": precision,
        "format": format,
    }
    if why := table.mismatch(measured):
        return None, why
    missing = table.missing(network.blocks)
    if missing:
        return None, f"the latency table has no block '{missing[0].key}'"
    return table.total(network), ""
