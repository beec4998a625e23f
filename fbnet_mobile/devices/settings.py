"""The user's devices.yaml: devices by a name of one's own, and how each is to be used."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, field_validator

from fbnet_mobile.errors import UserError
from fbnet_mobile.files import parse_yaml, read_text, validated


class Signing(BaseModel):
    """What Apple wants an app to be signed with before it runs on an iPhone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    development_team: str
    provisioning_profile_uuid: str
    bundle_identifier: str


class DeviceSettings(BaseModel):
    """How one device is used; ``docs/devices.md`` describes every field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transport: str = "host"
    runtime: str | None = None
    threads: PositiveInt | None = None
    python: str | None = None
    folder: str | None = None
    affinity: str = "all"
    benchmark_binary: Path | None = None
    delegate: Literal["cpu", "gpu", "nnapi"] = "cpu"
    compute_units: Literal["ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE"] = "ALL"
    signing: Signing | None = None
    fixed_performance: bool = False
    batch: PositiveInt | None = None
    pause_s: float = Field(0.0, ge=0)
    cool_below_c: float | None = None
    cool_at_most_s: PositiveFloat = 300.0
    model_limit_s: PositiveFloat = 120.0
    reconnect_s: PositiveFloat = 120.0

    @field_validator("affinity")
    @classmethod
    def _affinity(cls, text: str) -> str:
        if text not in {"all", "fast"}:
            cores_of(text)
        return text


def cores_of(text: str) -> list[int]:
    """The cores of a list such as ``4-7`` or ``0,2,4-5``.

    Raises:
        UserError: it is no such list.
    """
    cores: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            cores.update(range(int(first), int(last or first) + 1))
    except ValueError:
        cores = set()
    if not cores:
        raise UserError(f"{text!r} is no list of cores; write all, fast, or cores such as 4-7 or 0,2")
    return sorted(cores)


def devices_path() -> Path | None:
    """Where the user's devices are: ``$FBNET_DEVICES``, else ./devices.yaml, else ~/.config/fbnet-mobile/devices.yaml.

    None if there is no such file.
    """
    if named := os.environ.get("FBNET_DEVICES"):
        return Path(named)
    places = (Path("devices.yaml"), Path.home() / ".config" / "fbnet-mobile" / "devices.yaml")
    return next((place for place in places if place.exists()), None)


def device_entries() -> dict[str, DeviceSettings]:
    """The user's devices by name; none if there is no devices.yaml.

    Raises:
        UserError: the file cannot be read or an entry is wrong.
    """
    path = devices_path()
    if path is None:
        return {}
    data = parse_yaml(read_text(path), str(path))
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise UserError(f"{path}: not a mapping from names of devices to their settings")
    return {name: validated(DeviceSettings, entry, f"{path}: {name}") for name, entry in data.items()}
