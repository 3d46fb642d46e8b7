"""Changes of bytes that make a broken file of a whole one, each from random numbers alone."""

from __future__ import annotations

import bz2
import gzip
import re
import struct
from collections.abc import Callable, Sequence
from random import Random

NUMBER = re.compile(rb"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
WORDS = (
    *(
        b"nan",
        b"inf",
        b"-inf",
        b"1e400",
        b"1e30",
        b"-1",
        b"0",
        b"-0",
        b"1.9",
        b"258",
        b"999999999999999999999",
        b"1e-320",
    ),
    *(
        b"",
        b"None",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"'",
        b'"',
        b"#",
        b"data_",
        b"loop_",
        b"_",
        b"\xff\xfe",
        b"\0",
    ),
    *(
        b"\x1b[31m",
        b"\xc2\xa0",
        b"\xe2\x80\xa8",
        b"\xd9\xa1",
        b"1_0",
        b"0x10",
        b"../../a",
        b"/dev/zero",
        b"; ",
        b"\r",
        b"\t",
    ),
)
REPEATED = (b"\n", b" ", b"[", b"{", b'"', b"(", b"<a>", b"9", b"\t", b"a ", b"-", b"\\", b"_1", b"\0")
INTEGERS = (0, 1, -1, 2, 7, 255, 256, 1024, 2**15, 2**16, 2**24, 2**31 - 1, -(2**31))
REPEATS = (2, 10, 1000, 20_000)


def mutated(whole: bytes, rng: Random, others: Sequence[bytes] = ()) -> bytes:
    """Return the bytes with one to a few changes; those of a compressed file are often made inside it."""
    for magic, unpack, pack in ((b"\x1f\x8b", gzip.decompress, gzip.compress), (b"BZh", bz2.decompress, bz2.compress)):
        if whole.startswith(magic) and rng.random() < 0.6:
            return pack(mutated(unpack(whole), rng, others))
    result = bytearray(whole)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        rng.choice(MUTATIONS)(result, rng, others)
    return bytes(result)


def _place(data: bytearray, rng: Random) -> int:
    """A place, often in the head, where the meaning of a file stands."""
    return rng.randrange(min(len(data), rng.choice((64, 256, 1024, 2**30))) + 1)


def _span(data: bytearray, rng: Random) -> slice:
    start = _place(data, rng)
    return slice(start, start + rng.choice((1, 2, 4, 16, 100, 1000)))


def _flip(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if data:
            data[min(_place(data, rng), len(data) - 1)] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    if data:
        data[min(_place(data, rng), len(data) - 1)] = rng.randrange(256)


def _cut(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    del data[len(data) - rng.choice((1, 2, 4, 7, rng.randrange(len(data) + 1))) if data else 0 :]


def _delete(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    del data[_span(data, rng)]


def _double(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    span, at = _span(data, rng), _place(data, rng)
    data[at:at] = data[span]


def _lines(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    """Double, drop, swap or cut a line."""
    lines = bytes(data).split(b"\n")
    one, two = rng.randrange(len(lines)), rng.randrange(len(lines))
    kind = rng.randrange(4)
    if kind == 0:
        lines.insert(two, lines[one])
    elif kind == 1:
        del lines[one]
    elif kind == 2:
        lines[one], lines[two] = lines[two], lines[one]
    else:
        lines[one] = lines[one][: rng.randrange(len(lines[one]) + 1)]
    data[:] = b"\n".join(lines)


def _number(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    found = list(NUMBER.finditer(bytes(data[:100_000])))
    if found:
        start, stop = rng.choice(found).span()
        data[start:stop] = rng.choice(WORDS)


def _swap(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    """Put one number of the file, or one word, in the place of another."""
    pattern = NUMBER if rng.random() < 0.6 else re.compile(rb"\w+")
    found = list(pattern.finditer(bytes(data[:100_000])))
    if len(found) > 1:
        one, two = rng.sample(found, 2)
        data[one.start() : one.end()] = two[0]


def _word(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    data[at:at] = rng.choice(WORDS)


def _repeat(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    at = _place(data, rng)
    data[at:at] = rng.choice(REPEATED) * rng.choice(REPEATS)


def _integer(data: bytearray, rng: Random, _: Sequence[bytes]) -> None:
    """Another four bytes where a header may have a number."""
    at = 4 * rng.randrange(min(len(data), rng.choice((32, 256, 1024))) // 4 + 1)
    order = rng.choice("<>")
    value = rng.choice((*INTEGERS, rng.getrandbits(31)))
    number = struct.pack(f"{order}i", value) if rng.random() < 0.8 else struct.pack(f"{order}f", rng.choice(FLOATS))
    data[at : at + 4] = number


def _splice(data: bytearray, rng: Random, others: Sequence[bytes]) -> None:
    """A piece of another file in the place of one of this."""
    if others:
        other = rng.choice(others)
        start = rng.randrange(len(other) + 1)
        data[_span(data, rng)] = other[start : start + rng.choice((4, 40, 400))]


FLOATS = (float("nan"), float("inf"), -1.0, 0.0, 1e30, 1e-40)
MUTATIONS: tuple[Callable[[bytearray, Random, Sequence[bytes]], None], ...] = (
    *(_flip, _byte, _cut, _delete, _double, _lines, _lines, _number, _number, _swap, _swap, _word, _repeat, _integer),
    _splice,
)
