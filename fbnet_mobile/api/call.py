"""What the five functions share: options from keywords, outputs checked at the start, options kept with a result."""

import functools
import inspect
import os
import shlex
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from fbnet_mobile import __version__
from fbnet_mobile.engine.recipe import RecipeField, build, plain, recipe_fields, shorten, span
from fbnet_mobile.errors import UserError

Options = TypeVar("Options")
Result = TypeVar("Result")

_MARK = "# fbnet-"
"""How a file of options begins."""


def takes(options: type[Options]) -> Callable[[Callable[[Options], Result]], Callable[..., Result]]:
    """Turn a function of a recipe into one of its fields as keywords, with a signature and documentation of them."""

    def decorate(work: Callable[[Options], Result]) -> Callable[..., Result]:
        @functools.wraps(work)
        def called(**given: Any) -> Result:
            return work(build(options, given))

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
    bounds = span(item.option).removeprefix(" of").strip()
    choices = f"one of {', '.join(item.option.choices)}" if item.option.choices else ""
    return f"[default: {'; '.join(filter(None, (default, bounds, choices)))}]"


def say(line: str) -> None:
    """A remark while the work is done; on stderr, as stdout is for results."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def check_output(path: Path, *, folder: bool = False, inputs: Sequence[Path | str | None] = ()) -> None:
    """Refuse, before hours of work, an output path that cannot be written to or that is one of the inputs.

    Args:
        path: where something will be written.
        folder: whether that will be a folder with files in it.
        inputs: what the work reads, as far as it is given.

    Raises:
        UserError: what is wrong with the path.
    """

    def refuse(reason: str) -> UserError:
        return UserError(f"cannot write {path}: {reason}; choose another output path")

    for given in inputs:
        if given is not None and _same(path, Path(given)):
            raise refuse("it is one of the inputs")
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise refuse(error.strerror or str(error)) from error
    else:
        if folder and not stat.S_ISDIR(found.st_mode):
            raise refuse("it is a file, and a folder is to be written")
        if not folder and not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise refuse("it is no regular file")
    above = path if path.is_dir() else path.parent
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        raise refuse(f"{above} is not a folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise refuse(f"no permission to write in {above}")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()


def arguments_path(output: Path, *, folder: bool = False) -> Path:
    """Where the options of a result are kept: in its folder, or beside its file."""
    return output / "args.yaml" if folder else output.with_name(f"{output.stem}.args.yaml")


def check_arguments(path: Path) -> None:
    """Refuse to replace a file that holds no options.

    Raises:
        UserError: there is one at ``path``.
    """
    if path.exists() or path.is_symlink():
        try:
            ours = path.is_file() and path.read_bytes().startswith(_MARK.encode())
        except OSError:
            ours = False
        if not ours:
            raise UserError(f"cannot write {path}: another file is there; move it or choose another output path")


def write_arguments(path: Path, command: str, options: Any) -> None:
    """Keep all options of a result, from which ``--config`` repeats it.

    Raises:
        UserError: the path cannot be written to, or holds something else.
    """
    import yaml

    from fbnet_mobile.files import write_whole

    check_arguments(path)
    text = yaml.safe_dump(plain(options), sort_keys=False, allow_unicode=True, width=10_000)
    head = f"{_MARK}{command} of fbnet-mobile {__version__}; again: fbnet-{command} --config {shlex.quote(path.name)}\n"
    with write_whole(path) as partial:
        partial.write_text(head + text, encoding="utf-8")


def command_line(command: str, options: Any, **changed: Any) -> str:
    """The command that has these options, as it can be typed; ``changed`` fields have other values."""
    values = {**plain(options), **changed}
    words, arguments = [f"fbnet-{command}"], []
    for item in recipe_fields(type(options)):
        value = values[item.name]
        if value is None or (not item.required and value == _default(item)):
            continue
        name = option_names(item)[0]
        several = value if isinstance(value, list) else [value]
        if item.option.argument:
            arguments += several
        elif item.kind is bool:
            yes, _, no = name.partition("/")
            words.append(yes if value else no)
        else:
            for each in several:
                words += [name, str(each)]
    return shlex.join([*words, *arguments])


def _default(item: RecipeField) -> Any:
    return list(item.default) if isinstance(item.default, tuple) else item.default


def option_names(item: RecipeField) -> tuple[str, ...]:
    """How a field is written on a command line."""
    return item.option.names or (f"--{item.name.replace('_', '-')}",)


def first_line(error: BaseException) -> str:
    """What an error of a library says, on one line."""
    return shorten((str(error).strip() or type(error).__name__).splitlines()[0], 300)
