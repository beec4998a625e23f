"""What the commands share: options from recipes, completion of them, error lines, printing of records."""

import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from fbnet_mobile import __version__
from fbnet_mobile.api.call import described, option_names
from fbnet_mobile.cli import completion
from fbnet_mobile.errors import FbnetError, JobError, UserError, is_out_of_memory, shown
from fbnet_mobile.recipe import RecipeField, build, option, recipe_fields
from fbnet_mobile.registry import nearest
from fbnet_mobile.remarks import quiet

Lines = Callable[[Any], Iterable[str]]
Look = Callable[[Any, dict[str, Any]], "tuple[Any, Lines] | None"]

_TYPES: "Mapping[type, click.ParamType[Any]]" = {  # older versions of click have no brackets
    int: click.INT,
    float: click.FLOAT,
    str: click.STRING,
    Path: click.STRING,
}
_LONGEST_WORD = 200
_LONGEST_LINE = 1500
_COMMON = "Other"


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """What every command has besides its own options."""

    json: bool = option(False, group=_COMMON, help="Print the result as one JSON document.")
    quiet: bool = option(
        False, group=_COMMON, names=("--quiet", "-q"), help="Print the result and errors, and nothing meanwhile."
    )
    config: Path | None = option(
        None,
        group=_COMMON,
        shown="none",
        help="YAML file with options, such as the args.yaml beside a result; those given here count before it.",
    )
    completion: Literal["bash", "zsh", "fish"] | None = option(
        None,
        group=_COMMON,
        shown="none",
        metavar="SHELL",
        help='Only print what completes all six commands by the Tab key: put eval "$(fbnet-train --completion bash)" '
        "into ~/.bashrc.",
    )
    version: bool = option(False, group=_COMMON, help="Only print the version.")


@dataclass(frozen=True)
class Program:
    """A command.

    Attributes:
        name: after "fbnet-".
        example: a command line.
        options: the recipe that its options are made from.
        work: called with the options that were given, by name; returns a record. What it says of itself is the help.
        lines: the record for people.
        continues: whether the same command takes up what an interrupted one left.
        instead: a recipe of options that ask for something else than the work, if there are any.
        look: does what they ask for, given the command's other options by name too, and gives its record with its
            lines; None if they ask for nothing.
    """

    name: str
    example: str
    options: type
    work: Callable[..., Any]
    lines: Lines
    continues: bool
    instead: type | None = None
    look: Look = lambda asked, others: None


def run(program: Program) -> NoReturn:
    """Run a command: options from the command line, one line and an exit code for an error."""
    _open_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # a path may hold what the encoding of the terminal does not
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    # OpenMP's threads spin while they wait for one another, which beside another busy program slows a training step
    # several times over. Read when torch is loaded, hence set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name = f"fbnet-{program.name}"
    try:
        command = _command(program)
        if (answered := completion.asked(command, name)) is not None:
            sys.exit(answered)
        with command.make_context(name, sys.argv[1:]) as context:
            command.invoke(context)
        sys.exit(0)
    except click.exceptions.Exit as ended:  # after --help
        sys.exit(ended.exit_code)
    except click.ClickException as error:
        _fail(f"{error.format_message().rstrip('.')}; see --help", 2)
    except FbnetError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _interrupted(
            "; the same command continues where it was" if program.continues else "; the same command begins again"
        )
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        _fail(f"{where}{error.strerror or error}", 1)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _fail(f"too little memory: {_memory_detail(error)}; take fewer images at a time, or smaller ones", 1)


def _open_closed_streams() -> None:
    """Open what was closed when the program began, lest a file takes its number and gets what is printed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(number, "r" if number == 0 else "w"))  # noqa: SIM115, PTH123


def _interrupted(then: str = "") -> NoReturn:
    print(f"interrupted{then}", file=sys.stderr)
    sys.exit(130)


def _fail(message: str, code: int) -> NoReturn:
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


def _memory_detail(error: Exception) -> str:
    """What was too large, as far as numpy or torch says it."""
    found = re.search(r"nable to allocate (.+?) for|ried to allocate ([\d.]+ \w+)", str(error))
    return f"{found[1] or found[2]} were asked for at once" if found else "what was asked for does not fit"


def one_line(text: str) -> str:
    """A message as one line: control characters escaped, words of hundreds of characters and whole pages shortened."""
    words = re.sub(rf"\S{{{_LONGEST_WORD},}}", lambda word: shown(word[0], 123), shown(text, sys.maxsize))
    return shown(words, _LONGEST_LINE)


class _Command(click.Command):
    """A command whose help shows options in groups."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(param, "group", _COMMON), []).append(record)
        for group, records in groups.items():
            with formatter.section(group):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write(f"\n{self.epilog}\n")  # as it can be copied


class _Option(click.Option):
    group = _COMMON


class _Argument(click.Argument):
    group = "Arguments"
    about = ""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str]:
        return self.make_metavar(ctx), self.about


def _command(program: Program) -> click.Command:
    parts = [part for part in (program.options, program.instead, CommonOptions) if part is not None]
    known = {item.name: item for part in parts for item in recipe_fields(part)}

    @click.pass_context
    def called(ctx: click.Context, /, **values: Any) -> None:
        source = click.core.ParameterSource.COMMANDLINE
        given = {name: value for name, value in values.items() if ctx.get_parameter_source(name) is source}
        _called(program, given)

    return _Command(
        name=f"fbnet-{program.name}",
        callback=called,
        params=[_parameter(item) for item in known.values()],
        help=(program.work.__doc__ or "").partition("\n\n    Args:")[0],
        epilog=f"Example: {program.example}",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def _parameter(item: RecipeField) -> click.Parameter:
    about = f"{item.option.help} {described(item)}"
    several: dict[str, Any] = {"shell_complete": completion.completer(item)}
    if item.option.argument:
        argument = _Argument([item.name], nargs=-1, required=False, type=_TYPES[item.kind], **several)
        argument.about = about
        return argument
    if item.count is not None and not item.option.commas:
        several |= {"nargs": item.count} if item.count else {"multiple": True}
    if item.kind is bool:
        several["is_flag"] = True
    else:
        several["type"] = _TYPES[item.kind]
    made = _Option(
        [item.name, *option_names(item)],
        help=about,
        metavar=item.option.metavar or ("PATH" if item.kind is Path else None),
        default=None,
        **several,
    )
    made.group = item.option.group
    return made


def _called(program: Program, given: dict[str, Any]) -> None:
    common = build(CommonOptions, _part(CommonOptions, given))
    with _stdout_for_the_result(common.json), quiet() if common.quiet else contextlib.nullcontext():
        record, lines = _done(program, common, given)
    if not _first_process():
        return
    if common.json:
        from fbnet_mobile.documents import to_json

        text = to_json(record)
    else:
        text = "".join(f"{line}\n" for line in lines(record))
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise JobError(f"cannot print the result: {(error.strerror or str(error)).lower()}") from error
    if failure := getattr(record, "failure", ""):
        raise JobError(failure)


def _done(program: Program, common: CommonOptions, given: dict[str, Any]) -> tuple[Any, Lines]:
    """The record of what was asked for, with its lines."""
    if common.version:
        return f"fbnet-mobile {__version__}", str.splitlines
    if common.completion is not None:
        return completion.script(common.completion), str.splitlines
    if common.config is not None:
        given = {**_configured(common.config, program), **given}
    own = _part(program.options, given)
    if program.instead is not None:
        try:
            if looked := program.look(build(program.instead, _part(program.instead, given)), own):
                return looked
        except KeyboardInterrupt:
            _interrupted()
    for item in recipe_fields(program.options):
        if item.required and not item.option.argument and item.name not in own:
            raise UserError(f"missing option {option_names(item)[0]}; see --help")
    return program.work(**own), program.lines


def _part(recipe: type, values: Mapping[str, Any]) -> dict[str, Any]:
    own = {item.name for item in recipe_fields(recipe)}
    return {name: value for name, value in values.items() if name in own}


def _configured(path: Path, program: Program) -> dict[str, Any]:
    """The options in a YAML file.

    Raises:
        UserError: the file is no mapping of the command's options to values.
    """
    from fbnet_mobile.documents import parse_yaml
    from fbnet_mobile.files import read_text

    known = {item.name for item in recipe_fields(program.options)}
    content = parse_yaml(read_text(path), str(path))
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no options; write lines such as epochs: 30")
    found = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise UserError(f"{path}: unknown option '{shown(key, 40)}' for fbnet-{program.name}{nearest(name, known)}")
        found[name] = value
    return found


@contextlib.contextmanager
def _stdout_for_the_result(wanted: bool) -> Iterator[None]:
    """Send to stderr whatever is printed meanwhile, by libraries in C too, if stdout must hold one document."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _first_process() -> bool:
    """Whether this is the first, or the only, of the processes that a training is spread over."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "NODE_RANK"))
