"""Where training runs; kept apart from ``common`` because it imports torch."""

from lightning_fabric import Fabric

from fbnet_mobile.errors import UserError


def make_fabric(accelerator: str, devices: str, precision: str) -> Fabric:
    """A launched Fabric for the options of a command.

    Raises:
        UserError: the machine does not have what was asked for.
    """
    if devices != "auto" and not devices.isdecimal():
        raise UserError(f"{devices!r} is not a number of devices; give a number or auto")
    try:
        fabric = Fabric(
            accelerator=accelerator,
            devices=devices if devices == "auto" else int(devices),
            precision=precision,  # type: ignore[arg-type]  # checked by Fabric
        )
    except (ValueError, RuntimeError, TypeError) as error:  # MisconfigurationException is one of them
        raise UserError(f"cannot train there: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__name__ == "MisconfigurationException":
            raise UserError(f"cannot train there: {str(error).splitlines()[0]}") from error
        raise
    fabric.launch()
    return fabric
