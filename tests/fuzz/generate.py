"""Inputs that nobody would write: seeds with a few mistakes in them."""

import io
import math
import random
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st

NUMBERS = (
    *("0", "-1", "1", "2", "0.5", "1e308", "-1e308", "1e-300", "nan", ".nan", ".inf", "-.inf", "inf", "NaN"),
    *("Infinity", "true", "null", "''", "99999999999999999999", "1" * 4301, "0x10", "1_000", "010", "1e5"),
    *("4294967296", "2026-02-30", "12:30:45", "[1, 2]", "{}"),
)
WORDS = (
    *("", "~", "'", '"', "\\", "\x00", "\x1b[31m", "\u202e", "\\ud800", "é", "😀", "a" * 300, "../..", "/", "\t"),
    *("$(touch x)", "`touch x`", "; touch x", "!!python/object/apply:os.system ['touch x']", "&a [*a]", "<<: *a"),
    *("- - - - -", "[" * 500, "{a: " * 450, "---\n", "%TAG ! x\n"),
)

PLACES = (
    *("/dev/null", "/", ".", "..", "/etc/passwd", "/proc/self/mem", "nowhere/at/all", "images", "net.yaml", "a.csv"),
    *("best.pt", "m.tflite", "pipe", "a" * 5000, "a/" * 2500, "net.yaml/below", "~/x", "~nobody/x", "-", "\udcff"),
    *("host", "ssh:x y", "adb:", "ssh:-oProxyCommand=x", "digits", "timm:nothing", "torchvision:", "plugin:x", "1e9ms"),
)
"""Paths, devices and names; the files are beside the command."""

_MISTAKES = (1, 1, 1, 1, 2, 3, 5)


def mutated_text(seed: str, draw: random.Random) -> str:
    """A text with one to five mistakes: a number or word replaced, lines lost, doubled or moved, an end cut off."""
    text = seed
    for _ in range(draw.choice(_MISTAKES)):
        text = draw.choice(_TEXT_EDITS)(text, draw)[:200_000]
    return text


def mutated_bytes(seed: bytes, draw: random.Random) -> bytes:
    """Bytes with one to five mistakes: bits turned, parts lost, doubled or overwritten, an end cut off."""
    data = bytearray(seed)
    for _ in range(draw.choice(_MISTAKES)):
        at = draw.randrange(len(data) + 1)
        length = draw.choice((1, 1, 2, 4, 8, 64))
        edit = draw.randrange(5)
        if edit == 0 and at < len(data):
            data[at] ^= 1 << draw.randrange(8)
        elif edit == 1:
            del data[at : at + length]
        elif edit == 2:
            data[at:at] = data[at : at + length]
        elif edit == 3:
            data[at : at + length] = bytes(draw.choice((0, 1, 127, 128, 255)) for _ in range(length))
        elif draw.random() < 0.3:
            del data[at:]
    return bytes(data)


def drawn(build: Callable[[random.Random], Any]) -> st.SearchStrategy[Any]:
    """What ``build`` makes of a generator of one number.

    Were each of its draws one of hypothesis', they would take half of the time. ``smallest`` makes small what fails.
    """
    return st.integers(0, 2**64 - 1).map(lambda number: build(random.Random(number)))


def texts(seeds: Sequence[str]) -> st.SearchStrategy[bytes]:
    """Mutated texts as UTF-8, some of them mutated as bytes too."""

    def build(draw: random.Random) -> bytes:
        data = mutated_text(draw.choice(seeds), draw).encode("utf-8", "surrogatepass")
        return mutated_bytes(data, draw) if draw.random() < 0.2 else data

    return drawn(build)


def blobs(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Mutated bytes, and now and then some that have nothing of a seed."""
    mutated = drawn(lambda draw: mutated_bytes(draw.choice(seeds), draw))
    return st.one_of(mutated, mutated, mutated, st.binary(max_size=200))


def _replaced(pattern: str, options: Sequence[str]) -> Callable[[str, random.Random], str]:
    def edit(text: str, draw: random.Random) -> str:
        found = list(re.finditer(pattern, text))
        if not found:
            return text
        match = draw.choice(found)
        return text[: match.start()] + draw.choice(options) + text[match.end() :]

    return edit


def _line(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    at, to = draw.randrange(len(lines)), draw.randrange(len(lines))
    edit = draw.randrange(4)
    if edit == 0:
        del lines[at]
    elif edit == 1:
        lines.insert(at, lines[at])
    elif edit == 2:
        lines[at], lines[to] = lines[to], lines[at]
    else:
        lines[at] = lines[at][: draw.randrange(len(lines[at]) + 1)]
    return "\n".join(lines)


def _insert(text: str, draw: random.Random) -> str:
    at = draw.randrange(len(text) + 1)
    return text[:at] + draw.choice((*WORDS, *NUMBERS)) + text[at:]


def _cut(text: str, draw: random.Random) -> str:
    return text[: draw.randrange(len(text) + 1)] if draw.random() < 0.3 else text


_TEXT_EDITS: tuple[Callable[[str, random.Random], str], ...] = (
    _replaced(r"-?\d+(\.\d+)?(e-?\d+)?", NUMBERS),
    _replaced(r"-?\d+(\.\d+)?(e-?\d+)?", NUMBERS),
    _replaced(r"[A-Za-z_]+", (*WORDS, *NUMBERS)),
    _line,
    _insert,
    _cut,
)


def containers(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Files that torch.save wrote, with values of other types or shapes, other records, or other bytes."""

    def other_values(draw: random.Random) -> bytes:
        content = torch.load(io.BytesIO(draw.choice(seeds)), weights_only=True)
        for _ in range(draw.randint(1, 2)):
            content = _other_value(content, draw)
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()

    def other_records(draw: random.Random) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(draw.choice(seeds))) as before, zipfile.ZipFile(file, "w") as after:
            chosen = draw.choice(before.namelist())
            for name in before.namelist():
                data = before.read(name)
                after.writestr(name, mutated_bytes(data, draw) if name == chosen else data)
        return file.getvalue()

    values, records = drawn(other_values), drawn(other_records)
    return st.one_of(values, values, records, blobs(seeds))


def _odd_values() -> list[Any]:
    return [
        *(None, True, False, -1, 0, 1, 10**30, -(2**63), 1e308, 1e-320, math.nan, math.inf, "", "text", "a\nb", "\x1b"),
        *([], {}, (), [None], {"a": 1}, (1, "a"), [[[]]], {1: 2}, b"bytes", {"weight": 3}, OrderedDict(a=1), 1j),
        *(torch.zeros(0), torch.zeros(1), torch.full((3,), math.nan), torch.zeros(2, 3, dtype=torch.int64)),
        *(torch.zeros(1, 1, dtype=torch.complex64), torch.tensor(2**40), torch.zeros(1).bool(), torch.Size((1, 2))),
        *(torch.zeros(1).expand(10**6, 10**6), torch.device("cpu"), torch.float32, torch.zeros(2).to_sparse()),
        *(torch.empty(5, device="meta"), torch.nn.Parameter(torch.ones(2)), "x" * 10_000, list(range(1000))),
    ]


def _other_value(content: Any, draw: random.Random) -> Any:
    """The same with one of its values, at any depth, another, gone, or under another name."""
    if not isinstance(content, dict | list | tuple) or not content or draw.random() < 0.15:
        return draw.choice(_odd_values())
    if isinstance(content, dict):
        key = draw.choice(list(content))
        if draw.random() < 0.1:
            return {name: value for name, value in content.items() if name != key}
        if draw.random() < 0.1:
            return {**content, draw.choice(["new", 1, None, (1,)]): content[key]}
        return {**content, key: _other_value(content[key], draw)}
    at = draw.randrange(len(content))
    changed = list(content)
    if draw.random() < 0.1:
        del changed[at]
    else:
        changed[at] = _other_value(changed[at], draw)
    return changed if isinstance(content, list) else tuple(changed)


def mutated_words(words: Sequence[str], options: Mapping[str, Sequence[str]], draw: random.Random) -> list[str]:
    """A command line with one to three mistakes; the first word is the command, whose ``options`` may be added."""
    found = list(words)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(1, len(found)) if len(found) > 1 else 1
        edit = draw.randrange(6)
        if edit == 0:
            found = [*found[:at], *found[at + 1 :]]
        elif edit == 1:
            found.insert(at, draw.choice(found[1:] or [""]))
        elif edit == 2:
            found += [draw.choice(options[words[0]]), draw.choice((*WORDS, *NUMBERS, *PLACES))]
        elif edit == 3:
            found += [draw.choice(options[words[0]])]
        elif edit == 4 and at < len(found):
            found[at] = mutated_text(found[at], draw)
        else:
            found[at : at + 1] = [draw.choice((*WORDS, *NUMBERS, *PLACES))]
    # No program can be given a zero byte in a word, or more than 128 KiB of it.
    return [word.replace("\0", "")[:100_000] for word in found]


Cut = TypeVar("Cut", bytes, list[str])


def smallest(data: Cut, fails: Callable[[Cut], bool], seconds: float = 60) -> Cut:
    """Of failing bytes, or words, as few as are left when parts are taken away for so long, and still fail."""
    end = monotonic() + seconds
    size = max(len(data) // 2, 1)
    while size and monotonic() < end:
        at = 0
        while at < len(data) and monotonic() < end:
            shorter = data[:at] + data[at + size :]
            if fails(shorter):
                data = shorter
            else:
                at += size
        size //= 2
    return data
