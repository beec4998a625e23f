"""The user's devices.yaml: devices by a name of one's own, and how each is to be used."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from fbnet_mobile.documents import parse_yaml, validated
from fbnet_mobile.errors import UserError
from fbnet_mobile.files import read_text

_NAME_LENGTH = 100
_CORES = 1024


def _printable(text: str) -> str:
    if not text.isprintable():  # nor half a character
        raise ValueError("control characters are not allowed")
    return text


def _place(text: str) -> str:
    """A path on the device, whose own home a leading ``~/`` is."""
    if text.startswith("~") and text != "~" and not text.startswith("~/"):
        raise ValueError("write ~/... for a path below the home folder, or a whole path")
    return text


Text = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)]
Place = Annotated[Text, AfterValidator(_place)]
Count = Annotated[int, Field(strict=True, ge=1)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86_400, allow_inf_nan=False)]


class Signing(BaseModel):
    """What Apple wants an app to be signed with before it runs on an iPhone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    development_team: Text
    provisioning_profile_uuid: Text
    bundle_identifier: Text


class DeviceSettings(BaseModel):
    """How one device is used; ``docs/devices.md`` describes every field."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    transport: Text = "host"
    runtime: Text | None = None
    threads: Annotated[Count, Field(le=_CORES)] | None = None
    python: Place | None = None
    folder: Place | None = None
    affinity: Text = "all"
    benchmark_binary: Path | None = None
    delegate: Literal["cpu", "gpu", "nnapi"] = "cpu"
    compute_units: Literal["ALL", "CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE"] = "ALL"
    signing: Signing | None = None
    fixed_performance: bool = Field(False, strict=True)
    batch: Annotated[Count, Field(le=1_000_000)] | None = None
    pause_s: float = Field(0.0, strict=True, ge=0, le=3600, allow_inf_nan=False)
    cool_below_c: float | None = Field(None, strict=True, ge=-50, le=150, allow_inf_nan=False)
    cool_at_most_s: Seconds = 300.0
    model_limit_s: Seconds = 120.0
    reconnect_s: Seconds = 120.0

    @field_validator("affinity")
    @classmethod
    def _affinity(cls, text: str) -> str:
        if text not in {"all", "fast"}:
            cores_of(text)
        return text

    @field_validator("benchmark_binary")
    @classmethod
    def _binary(cls, path: Path | None) -> Path | None:
        if path is None:
            return None
        _printable(str(path))
        try:
            return path.expanduser()
        except RuntimeError as error:  # there is no home, or no such user
            raise ValueError(f"{path}: {error}") from error

    def cores(self, fast: tuple[int, ...]) -> tuple[int, ...]:
        """The cores to run on, of which ``fast`` have the highest clock; none for no choice."""
        if self.affinity == "fast":
            return fast
        return () if self.affinity == "all" else tuple(cores_of(self.affinity))


def cores_of(text: str) -> list[int]:
    """The cores of a list such as ``4-7`` or ``0,2,4-5``.

    Raises:
        UserError: it is no such list.
    """
    cores: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,4})(?:-(\d{1,4}))?", part, re.ASCII)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not low <= high < _CORES:
            raise UserError(
                f"{text[:40]!r} is no list of cores; write all, fast, or cores such as 4-7 or 0,2, up to {_CORES - 1}"
            )
        cores.update(range(low, high + 1))
    return sorted(cores)


def ranges(cores: tuple[int, ...]) -> str:
    """Numbers as "0-3,6"."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and runs[-1][1] == core - 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def devices_path() -> Path | None:
    """Where the user's devices are: ``$FBNET_DEVICES``, else ./devices.yaml, else ~/.config/fbnet-mobile/devices.yaml.

    None if there is no such file.

    Raises:
        UserError: it cannot be known, because a folder may not be looked into.
    """
    try:
        if named := os.environ.get("FBNET_DEVICES"):
            return Path(named).expanduser()
        places = [Path("devices.yaml"), Path("~/.config/fbnet-mobile/devices.yaml")]
        return next((place for place in map(Path.expanduser, places) if place.exists()), None)
    except RuntimeError:  # there is no home
        return None
    except OSError as error:
        raise UserError(
            f"cannot look for {str(error.filename)[:200]}: {error.strerror}; name your devices.yaml, or an empty file, "
            "in FBNET_DEVICES"
        ) from error


def device_entries() -> dict[str, DeviceSettings]:
    """The user's devices by name; none if there is no devices.yaml.

    Raises:
        UserError: the file cannot be read or an entry is wrong.
    """
    path = devices_path()
    if path is None:
        return {}
    data = parse_yaml(read_text(path), str(path))
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise UserError(f"{path}: not a mapping from names of devices to their settings")
    for name in data:
        if not 0 < len(name) <= _NAME_LENGTH or not name.isprintable() or name.startswith("-"):
            raise UserError(
                f"{path}: {name[:40]!r} is no name of a device; use at most {_NAME_LENGTH} characters that can be "
                "printed, the first of them no dash"
            )
    return {name: validated(DeviceSettings, entry, f"{path}: {name}") for name, entry in data.items()}
