"""Inputs that nobody would write: seeds with a few mistakes in them."""

import random
import re
from collections.abc import Callable, Sequence

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


def mutated_text(seed: str, draw: random.Random) -> str:
    """A text with one to five mistakes: a number or word replaced, lines lost, doubled or moved, an end cut off."""
    text = seed
    for _ in range(draw.randint(1, 5)):
        text = draw.choice(_TEXT_EDITS)(text, draw)[:200_000]
    return text


def mutated_bytes(seed: bytes, draw: random.Random) -> bytes:
    """Bytes with one to five mistakes: bits turned, parts lost, doubled or overwritten, an end cut off."""
    data = bytearray(seed)
    for _ in range(draw.randint(1, 5)):
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


def texts(seeds: Sequence[str]) -> st.SearchStrategy[bytes]:
    """Mutated texts as UTF-8, some of them mutated as bytes too."""

    def build(seed: str, draw: random.Random) -> bytes:
        data = mutated_text(seed, draw).encode("utf-8", "surrogatepass")
        return mutated_bytes(data, draw) if draw.random() < 0.2 else data

    return st.builds(build, st.sampled_from(list(seeds)), st.randoms(use_true_random=False))


def blobs(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Mutated bytes, and now and then some that have nothing of a seed."""
    mutated = st.builds(mutated_bytes, st.sampled_from(list(seeds)), st.randoms(use_true_random=False))
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
