"""What reads input from outside, each with inputs of its kind: seeds that are right, and strategies that spoil them."""

import contextlib
import io
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

from hypothesis import strategies as st

from fbnet_mobile.errors import FbnetError, JobError
from tests.fuzz import seeds
from tests.fuzz.generate import blobs, containers, drawn, mutated_words, texts
from tests.fuzz.guard import TIME_LIMIT_S, MisbehavedError, guarded


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        kind: its name.
        strategy: gives inputs.
        run: reads one, in a folder of its own, which is the current one; an ``FbnetError`` refuses it.
        inputs: how many of 100,000 are of this kind.
        prepare: makes what the inputs are made of or read with, unwatched.
        guided: right inputs, from which a fuzzer that watches the parser's branches goes on; none where there is no
            parser of one text or file.
    """

    kind: str
    strategy: st.SearchStrategy[Any]
    run: Callable[[Any, Path], None]
    inputs: int
    prepare: Callable[[], object] = lambda: None
    guided: Callable[[], Sequence[bytes]] = tuple


def written(content: object) -> bytes:
    """An input as a file keeps it."""
    return content if isinstance(content, bytes) else f"{content!r}\n".encode("utf-8", "backslashreplace")


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# An architecture, a space, options, devices


def architecture(content: bytes, folder: Path) -> None:
    from fbnet_mobile.arch import Architecture

    found = Architecture.load(_file(folder, "a.yaml", content))
    assert found.macs >= 0
    assert Architecture.from_yaml(found.to_yaml()) == found
    with contextlib.suppress(FbnetError):
        found.with_classes(7)
    if len(found.blocks) < 10:
        import torch

        from fbnet_mobile.blocks.network import Network

        with torch.device("meta"):
            Network(*(block.build() for block in found.blocks))


def space(content: bytes, folder: Path) -> None:
    import random

    from fbnet_mobile.space import SearchSpace, load_space

    found = load_space(str(_file(folder, "s.yaml", content)))
    assert found.size() >= 1
    assert SearchSpace.model_validate_json(found.model_dump_json()) == found
    found.candidates()
    found.architecture(found.draw(random.Random(0)))
    with contextlib.suppress(FbnetError):
        found.with_classes(7)


def recipe(content: bytes, folder: Path) -> None:
    from fbnet_mobile.api.call import command_line, write_arguments
    from fbnet_mobile.cli.common import _configured
    from fbnet_mobile.recipe import build, plain

    path = _file(folder, "args.yaml", content)
    name = next((name for name in commands() if content.startswith(f"# fbnet-{name}".encode())), "train")
    program = commands()[name].PROGRAM
    made = build(program.options, _configured(path, program))
    assert command_line(name, made).startswith("fbnet-")
    again = folder / "again.yaml"
    write_arguments(again, name, made)
    assert plain(build(program.options, _configured(again, program))) == plain(made)


def devices(content: bytes, folder: Path) -> None:
    from fbnet_mobile.devices import get_device
    from fbnet_mobile.devices.base import named_devices

    path = _file(folder, "devices.yaml", content)
    with mock.patch.dict(os.environ, FBNET_DEVICES=str(path)):
        for name in named_devices():
            assert name.isprintable()
            with contextlib.suppress(FbnetError):  # such as a Mac's, elsewhere
                assert get_device(name).settings.cores((0, 1)) is not None


# A table, a journal, and what devices say


def table(content: bytes, folder: Path) -> None:
    from fbnet_mobile.api.profile import compare, show
    from fbnet_mobile.arch import Architecture
    from fbnet_mobile.documents import to_json
    from fbnet_mobile.latency.table import LatencyTable
    from fbnet_mobile.report.console import comparison_lines, profile_lines

    path = _file(folder, "t.csv", content)
    found = LatencyTable.load(path)
    found.error()
    described = show(path)
    for line in profile_lines(described):
        assert line.isprintable(), line
        # A governor, or a device, may be called that.
        assert "nan" not in line.split() or b"nan" in content.lower(), line
    to_json(described)
    if len(content) % 2:
        for line in comparison_lines(compare(path, path)):
            assert line.isprintable(), line
    network = Architecture.from_yaml(seeds.ARCHITECTURES[0])
    assert found.missing(network.blocks) or found.total(network) >= 0
    saved_again(found, folder)


def saved_again(found: Any, folder: Path) -> None:
    """A table that was accepted, or made of what was accepted, can be written and read."""
    from fbnet_mobile.latency.table import LatencyTable

    path = folder / "again.csv"
    try:
        found.save(path)
        again = LatencyTable.load(path)
    except FbnetError as error:
        raise MisbehavedError(f"what was accepted cannot be saved and loaded: {error}") from error
    assert again.rows.keys() == found.rows.keys()


def _table_of(samples: Sequence[Any], content: bytes, folder: Path) -> None:
    """Samples that were accepted make a table, of one of the statistics."""
    from fbnet_mobile.arch import Block
    from fbnet_mobile.latency.table import LatencyTable
    from fbnet_mobile.measure.rounds import summary

    statistic = _statistic(content)
    if samples and all(sample.value(statistic) is not None for sample in samples):
        row = summary({number: [sample] for number, sample in enumerate(samples)}, statistic)
        key = Block.parse_key(seeds.BLOCK).key
        saved_again(LatencyTable(seeds.conditions(statistic), {("block", key): row}), folder)


def _statistic(content: bytes) -> str:
    return ("min", "median", "mean")[len(content) % 3]


def journal(content: bytes, folder: Path) -> None:
    from fbnet_mobile.measure.plan import MeasuringPlan
    from fbnet_mobile.measure.profile import profile

    statistic = _statistic(content)
    # Model files are replaced, never changed, so links to them serve.
    other = shutil.ignore_patterns("samples.jsonl")
    shutil.copytree(
        seeds.half_done_profile() / "t.csv.work", folder / "t.csv.work", ignore=other, copy_function=os.link
    )
    _file(folder / "t.csv.work", "samples.jsonl", content)
    plan = MeasuringPlan(2, 2, budget_s=None if len(content) % 2 else 1e6)
    done = profile(
        seeds.SPACE, "tiny", seeds.Steady(), "litert", folder / "t.csv", statistic=statistic, networks=3, plan=plan
    )
    assert all(warning.isprintable() for warning in done.warnings)


def runner(content: bytes, folder: Path) -> None:
    from fbnet_mobile.measure.jobs import run_models
    from fbnet_mobile.measure.plan import MeasuringPlan
    from fbnet_mobile.measure.samples import Sample

    device = seeds.Saying(content.decode("utf-8", "replace").split("\n"))
    found = [outcome for _, outcome in run_models(device, "litert", 1, [folder / "m.tflite"] * 3, MeasuringPlan())]
    assert len(found) == 3
    _table_of([one for one in found if isinstance(one, Sample)], content, folder)
    assert all(one.reason.isprintable() for one in found if not isinstance(one, Sample))


def benchmark_model(content: bytes, folder: Path) -> None:
    from fbnet_mobile.measure.benchmark_model import parse_output
    from fbnet_mobile.measure.jobs import run_models
    from fbnet_mobile.measure.plan import MeasuringPlan
    from fbnet_mobile.measure.samples import Sample

    lines = content.decode("utf-8", "replace").split("\n")
    parse_output(lines)
    device = seeds.Saying(lines)
    device.use(benchmark_binary=_file(folder, "benchmark_model", b"x"))
    found = [outcome for _, outcome in run_models(device, "litert", 1, [folder / "m.tflite"] * 2, MeasuringPlan())]
    assert len(found) == 2
    _table_of([one for one in found if isinstance(one, Sample)], content, folder)


# Checkpoints, folders of runs


def checkpoint(content: bytes, folder: Path) -> None:
    from fbnet_mobile.engine.checkpoint import load_checkpoint

    path = _file(folder, "best.pt", content)
    load_checkpoint(path).network(str(path))


def run_folder(content: tuple[str, str, bytes], folder: Path) -> None:
    """A finished run of which one file is another: given again, taken for its options, or inherited from."""
    what, name, data = content
    out = folder / what
    shutil.copytree(seeds.finished_run(what), out)
    _file(out, name, data)
    if name == "args.yaml":
        recipe(data, folder)
    seeds.run_again(what, out)
    if what == "search":
        seeds.inherit(out)


def _run_files() -> st.SearchStrategy[tuple[str, str, bytes]]:
    @st.composite
    def build(draw: st.DrawFn) -> tuple[str, str, bytes]:
        what = draw(st.sampled_from(["search", "train"]))
        files = sorted(path for path in seeds.finished_run(what).iterdir() if path.suffix and path.name != ".lock")
        path = draw(st.sampled_from(files))
        spoil = containers if path.suffix == ".pt" else blobs
        return what, path.name, draw(spoil([path.read_bytes()]))

    return build()


# Images, model files


def image_folder(content: tuple[int, list[tuple[bytes, str, bytes]]], folder: Path) -> None:
    from fbnet_mobile.data.data import load_data, load_images

    layout, entries = content
    root = folder / "images"
    shutil.copytree(seeds.pictures(layout), root)
    for name, kind, data in entries:
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            _make_entry(os.fsencode(root.resolve()), name, kind, data)
    source = str(root)
    memory = 0 if len(entries) % 3 == 2 else 10**8
    found = load_data(source, resolution=8, memory_limit=memory, workers=0, show_progress=False)
    for images, labels in found.train.batches(4):
        assert images.shape[1:] == (3, 8, 8)
        assert int(labels.max()) < len(found.classes)
    assert all(name.isprintable() for name in found.classes)
    load_images(source, "train", 2, resolution=8)


def _make_entry(root: bytes, name: bytes, kind: str, data: bytes) -> None:
    path = root + b"/" + name
    inside = os.path.realpath(os.path.dirname(path)).startswith(root)  # noqa: PTH120  (names of bytes)
    if b"\0" in path or os.path.lexists(path) or not inside:
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120  (names of bytes)
    if kind == "folder":
        os.mkdir(path)  # noqa: PTH102
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        os.symlink(data, path)  # noqa: PTH211
    else:
        with open(path, "xb") as file:  # noqa: PTH123  (not into what a link or a pipe of another entry leads to)
            file.write(data)


def _image_folders() -> st.SearchStrategy[tuple[int, list[tuple[bytes, str, bytes]]]]:
    places = [b"", b"red/", b"blue/", b"train/", b"train/red/", b"val/blue/", b"Test/red/", b"new/", b"red/deep/er/"]
    names = [
        *(b"a.jpg", b"b.PNG", b"c.tiff", b"d.webp", b"e.avif", b"f.jp2", b"g.gif", b"h.ppm", b"i.bmp", b"0.png"),
        *(b".hidden.jpg", b"\xff\xfe.png", b"new\nline.jpg", b"\x1b[31m", b"@eaDir", b"__MACOSX", b"Train", b"valid"),
        *(b"thumbs", b"notes.txt", "é".encode(), b"a" * 250 + b".png", b"x.heic", b"no suffix", b"test", b"k.eps"),
    ]
    links = [b".", b"..", b"../..", b"/", b"/etc", b"/proc/self/fd", b"0.png", b"../red", b"nowhere", b"a.jpg"]
    name = st.builds(bytes.__add__, st.sampled_from(places), st.one_of(st.sampled_from(names), st.binary(max_size=8)))
    picture = st.deferred(lambda: blobs(seeds.encoded_pictures()))
    entry = st.one_of(
        st.tuples(name, st.just("file"), picture),
        st.tuples(name, st.just("file"), picture),
        st.tuples(name, st.just("file"), st.deferred(lambda: st.sampled_from(seeds.encoded_pictures()))),
        st.tuples(name, st.sampled_from(["folder", "pipe"]), st.just(b"")),
        st.tuples(name, st.just("link"), st.sampled_from(links)),
    )
    return st.tuples(st.integers(0, 2), st.lists(entry, min_size=1, max_size=5))


def model_file(content: tuple[str, dict[str, bytes]], folder: Path) -> None:
    """What an export wrote, spoiled: its metadata, and running it as a benchmark's accuracy does.

    Native libraries read it, which may bring their process down, so another one does it.
    """
    suffix, files = content
    path = folder / f"m{suffix}"
    for name, data in files.items():
        place = path / name if name else path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    Reader.of_all().read(path)


def _read_model(path: Path) -> None:
    import numpy as np

    from fbnet_mobile.formats.base import format_of, read_metadata
    from fbnet_mobile.formats.metadata import ModelMetadata

    entry = format_of(path)
    entry.recognises(path)
    ModelMetadata.from_strings(read_metadata(path), str(path))
    session = entry.load(path)
    if np.prod([float(size) for size in session.input_shape[1:]]) < 1e6:
        session(np.zeros((max(session.input_shape[0], 1), *session.input_shape[1:]), np.float32))


class Reader:
    """A process that reads model files, one after another: forking one for each would take most of the time."""

    _MOST = 200
    """Files, after which another takes over, as native libraries may keep what they have read."""
    _now: ClassVar["Reader | None"] = None

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=self._serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()
        self._left = self._MOST

    @classmethod
    def of_all(cls) -> "Reader":
        """The one that serves now."""
        if cls._now is None:
            cls._now = cls()
        return cls._now

    def read(self, path: Path) -> None:
        """Let it read a file.

        Raises:
            MisbehavedError: it died, or whatever it says that is no refusal.
            JobError: the file is refused.
        """
        self._left -= 1
        try:
            self._ours.send(str(path))
            kind, said = self._ours.recv()
        except (EOFError, OSError):
            self._process.join()
            self.end()
            raise MisbehavedError(f"killed by signal {-(self._process.exitcode or 0)}") from None
        except BaseException:  # it takes too long
            self.end()
            raise
        if self._left == 0:
            self.end()
        if kind == "found":
            raise MisbehavedError(said)
        if kind == "refused":
            raise JobError(said)

    def end(self) -> None:
        """Stop it; the next file gets another."""
        self._process.kill()
        self._process.join()
        type(self)._now = None

    @staticmethod
    def _serve(files: Connection) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        while True:
            path = Path(files.recv())
            os.chdir(path.parent)
            # Native code notices no alarm.
            limit_s = int(time.process_time()) + 1 + TIME_LIMIT_S
            resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))
            answer = "read", ""
            try:
                with guarded(path.parent) as outcome:
                    _read_model(path)
                if outcome.refused is not None:
                    answer = "refused", str(outcome.refused)
            except BaseException as error:  # for the other process to tell
                answer = "found", f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error)[-6:])}"
            os.chdir("/")
            files.send(answer)


def _model_files() -> st.SearchStrategy[tuple[str, dict[str, bytes]]]:
    @st.composite
    def build(draw: st.DrawFn) -> tuple[str, dict[str, bytes]]:
        suffix, files = draw(st.sampled_from(seeds.models()))
        name = draw(st.sampled_from(sorted(files)))
        return suffix, {**files, name: draw(blobs([files[name]]))}

    return build()


def metadata(content: bytes, folder: Path) -> None:
    import json

    from fbnet_mobile.formats.metadata import ModelMetadata

    del folder
    try:
        strings = json.loads(content)
    except (ValueError, RecursionError):
        return
    if isinstance(strings, dict):
        ModelMetadata.from_strings({str(key): str(value) for key, value in strings.items()})


# The command line


@cache
def commands() -> Mapping[str, ModuleType]:
    import lightning_fabric  # noqa: F401  (with what is installed beside it, some of which makes folders for itself)

    from fbnet_mobile.cli import benchmark, export, profile, search, train

    return {"profile": profile, "search": search, "train": train, "export": export, "benchmark": benchmark}


_BEGINS = "what takes long begins"


def _work(*_: Any, **__: Any) -> Any:
    raise JobError(_BEGINS)


def command_line(words: list[str], folder: Path) -> None:
    """A command as far as the work that takes long, with files beside it that it may be given."""
    shutil.copytree(seeds.files_to_give(), folder, dirs_exist_ok=True)
    said = io.StringIO()
    code: Any = 0
    with _no_work(), mock.patch.object(sys, "argv", [f"fbnet-{words[0]}", *words[1:]]):
        out, err = io.StringIO(), said
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                commands()[words[0]].main()
            except SystemExit as ended:
                code = ended.code
    lines = said.getvalue().splitlines()
    errors = [line for line in lines if line.startswith(("error", "Error", "Traceback", "usage", "Usage"))]
    if code not in (0, 1, 2) or len(errors) > 1 or (code and not errors):
        raise MisbehavedError(f"exit code {code}, and said {said.getvalue()!r:.2000}")
    if not all(line.isprintable() for line in lines) or max(map(len, lines), default=0) > 2000:
        raise MisbehavedError(f"lines that are none: {said.getvalue()!r:.2000}")
    if "Warning" in said.getvalue():
        raise MisbehavedError(f"a library's warning: {said.getvalue()!r:.2000}")
    if code and _BEGINS not in errors[0]:
        raise JobError(errors[0])


@contextlib.contextmanager
def _no_work() -> Iterator[None]:
    places = (
        *("fbnet_mobile.measure.profile.profile", "fbnet_mobile.search.loop.search", "fbnet_mobile.train.loop.train"),
        *("fbnet_mobile.formats.verify.export", "fbnet_mobile.measure.benchmark.benchmark"),
        *("fbnet_mobile.api.devices.list_devices", "fbnet_mobile.api.devices.check_device"),
        *("fbnet_mobile.zoo.peers.load_peer", "fbnet_mobile.devices.host.HostDevice.run"),
        *("fbnet_mobile.devices.remote.subprocess.Popen", "fbnet_mobile.devices.adb.attached_devices"),
        "fbnet_mobile.devices.ssh.subprocess.Popen",
    )
    with contextlib.ExitStack() as stack:
        for place in places:
            stack.enter_context(mock.patch(place, _work))
        yield


def _command_lines() -> st.SearchStrategy[list[str]]:
    return drawn(lambda draw: mutated_words(draw.choice(seeds.COMMANDS), _options(), draw))


@cache
def _options() -> Mapping[str, Sequence[str]]:
    """The names of every command's options."""
    from fbnet_mobile.api.call import option_names
    from fbnet_mobile.recipe import recipe_fields

    found = {}
    for name, module in commands().items():
        parts = [part for part in (module.PROGRAM.options, module.PROGRAM.instead) if part is not None]
        items = [item for part in parts for item in recipe_fields(part) if not item.option.argument]
        found[name] = [*(option_names(item)[-1].partition("/")[0] for item in items), "--json", "--config", "--help"]
    return found


def _encoded(many: Sequence[str]) -> Callable[[], list[bytes]]:
    return lambda: [text.encode() for text in many]


def _runs() -> None:
    for what in ("search", "train"):
        seeds.finished_run(what)
    commands()


def _given() -> None:
    commands()
    seeds.files_to_give()


def _images() -> None:
    seeds.encoded_pictures()
    for layout in range(3):
        seeds.pictures(layout)


TARGETS: tuple[Target, ...] = (
    Target("architecture", texts(seeds.ARCHITECTURES), architecture, 12_000, guided=_encoded(seeds.ARCHITECTURES)),
    Target("space", texts(seeds.SPACES), space, 10_000, guided=_encoded(seeds.SPACES)),
    Target("recipe", texts(seeds.RECIPES), recipe, 10_000, commands, _encoded(seeds.RECIPES)),
    Target("devices", texts(seeds.DEVICES), devices, 10_000, guided=_encoded(seeds.DEVICES)),
    Target(
        *("table", st.deferred(lambda: texts([seeds.table_text()])), table, 8_000, seeds.table_text),
        lambda: [seeds.table_text().encode()],
    ),
    Target("checkpoint", st.deferred(lambda: containers([seeds.checkpoint()])), checkpoint, 8_000, seeds.checkpoint),
    Target("run-folder", st.deferred(_run_files), run_folder, 2_000, _runs),
    Target(
        *("journal", st.deferred(lambda: texts([seeds.journal()])), journal, 3_000, seeds.journal),
        lambda: [seeds.journal().encode()],
    ),
    Target("runner", texts([seeds.RUNNER]), runner, 10_000, guided=_encoded([seeds.RUNNER])),
    Target("benchmark-model", texts(seeds.OUTPUTS), benchmark_model, 10_000, guided=_encoded(seeds.OUTPUTS)),
    Target("metadata", texts([seeds.METADATA]), metadata, 6_000, guided=_encoded([seeds.METADATA])),
    Target("image-folder", st.deferred(_image_folders), image_folder, 5_000, _images),
    Target("model-file", st.deferred(_model_files), model_file, 4_000, seeds.models),
    Target("command-line", st.deferred(_command_lines), command_line, 8_000, _given),
)


@contextlib.contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for one input, which is the current one meanwhile."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as name:
        os.chdir(name)
        try:
            with mock.patch("os.fsync"):  # which takes longer than all the rest
                yield Path(name).resolve()
        finally:
            os.chdir(before)
