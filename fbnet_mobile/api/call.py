"""What the functions share: options from keywords, outputs checked at the start, options kept with a result."""

import errno
import functools
import inspect
import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fbnet_mobile import __version__
from fbnet_mobile.errors import UserError, shown
from fbnet_mobile.recipe import RecipeField, build, plain, recipe_fields, span

Options = TypeVar("Options")
Result = TypeVar("Result")

_MARK = "# fbnet-"
"""How a file of options begins."""


def takes(
    options: type[Options], complete: Callable[[dict[str, Any]], dict[str, Any]] = dict
) -> Callable[[Callable[[Options], Result]], Callable[..., Result]]:
    """Turn a function of a recipe into one of its fields as keywords, with a signature and documentation of them.

    Args:
        options: the recipe.
        complete: adds what those that are given stand for, such as a file of others.
    """

    def decorate(work: Callable[[Options], Result]) -> Callable[..., Result]:
        @functools.wraps(work)
        def called(**given: Any) -> Result:
            return work(build(options, complete(given)))

        known = sorted(recipe_fields(options), key=lambda item: not item.required)
        parameters = [
            inspect.Parameter(
                item.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if item.required else item.default,
            )
            for item in known
        ]
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        documented = "\n".join(f"        {item.name}: {item.option.help} {described(item)}" for item in known)
        called.__doc__ = f"{inspect.cleandoc(work.__doc__ or '')}\n\n    Args:\n{documented}\n"
        del called.__wrapped__  # whose signature is of the recipe
        return called

    return decorate


def described(item: RecipeField) -> str:
    """The default of an option, what it may be, and whether it must be given, in brackets."""
    if item.required:
        return "[required]"
    default = item.option.shown
    if not default:
        default = ("yes" if item.default else "no") if item.kind is bool else str(item.default)
    for other, instead in item.option.given.items():
        default += f", with --{other.replace('_', '-')} {instead}"
    bounds = span(item.option).removeprefix(" of").strip()
    choices = f"one of {', '.join(item.option.choices)}" if item.option.choices else ""
    return f"[default: {'; '.join(filter(None, (default, bounds, choices)))}]"


def check_output(
    path: Path,
    *,
    inputs: Sequence[Path | str | None] = (),
    replaces: Callable[[Path], bool] | None = None,
) -> None:
    """Refuse, before hours of work, an output path that cannot be written to or that is one of the inputs.

    Args:
        path: where something will be written.
        inputs: what the work reads, as far as it is given.
        replaces: whether what stands there is an earlier result; a regular file by default.

    Raises:
        UserError: what is wrong with the path.
    """
    from fbnet_mobile.files import is_regular, refuse_foreign, writing

    for given in inputs:
        if given is not None and _same(path, Path(given)):
            raise UserError(f"cannot write {shown(path)}: it is one of the inputs; choose another output path")
    refuse_foreign(path, replaces or is_regular)
    with writing(path):
        above = path if path.is_dir() else path.parent
        while not _is_there(above) and above != above.parent:
            above = above.parent
        if not above.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{shown(above)} is not a folder")
        if not os.access(above, os.W_OK | os.X_OK):
            read_only = hasattr(os, "statvfs") and os.statvfs(above).f_flag & os.ST_RDONLY
            number = errno.EROFS if read_only else errno.EACCES
            raise OSError(number, os.strerror(number))


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except (OSError, ValueError):
        return one.absolute() == other.absolute()


def arguments_path(output: Path, *, folder: bool = False) -> Path:
    """Where the options of a result are kept: in its folder, or beside its file, under all of its name."""
    return output / "args.yaml" if folder else output.parent / f"{output.name}.args.yaml"


def check_arguments(path: Path) -> None:
    """Refuse to replace a file that holds no options.

    Raises:
        UserError: there is one at ``path``.
    """
    from fbnet_mobile.files import refuse_foreign

    refuse_foreign(path, _holds_options)


def _holds_options(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK.encode()


def write_arguments(path: Path, command: str, options: Any) -> None:
    """Keep all options of a result, from which ``--config`` repeats it.

    Raises:
        UserError: the path cannot be written to, or holds something else.
        JobError: the disk is full.
    """
    import yaml

    from fbnet_mobile.files import write_whole

    text = yaml.safe_dump(plain(options), sort_keys=False, allow_unicode=True, width=10_000)
    again = shlex.join([f"fbnet-{command}", "--config", path.name])
    with write_whole(path, replaces=_holds_options) as partial:
        partial.write_text(f"{_MARK}{command} of fbnet-mobile {__version__}; again: {again}\n{text}", encoding="utf-8")


def command_line(command: str, options: Any, **changed: Any) -> str:
    """The command that has these options, as it can be typed; ``changed`` fields have other values."""
    values = {**plain(options), **changed}
    words, arguments = [f"fbnet-{command}"], []
    for item in recipe_fields(type(options)):
        value = values[item.name]
        if value is None or (not item.required and value == _default(item)):
            continue
        name = option_names(item)[0]
        several = value if isinstance(value, list) and not item.option.commas else [value]
        if item.option.argument:
            arguments += several
        elif item.kind is bool:
            yes, _, no = name.partition("/")
            words.append(yes if value else no)
        else:
            for each in several:
                words += [name, ",".join(each) if isinstance(each, list) else str(each)]
    return shlex.join([*words, *arguments])


def _default(item: RecipeField) -> Any:
    return list(item.default) if isinstance(item.default, tuple) else item.default


def option_names(item: RecipeField) -> tuple[str, ...]:
    """How a field is written on a command line."""
    return item.option.names or (f"--{item.name.replace('_', '-')}",)


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line."""
    return shown((str(error).strip() or type(error).__name__).splitlines()[0], 300)
