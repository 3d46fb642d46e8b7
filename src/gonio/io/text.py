"""Conversion of values to words of text and back.

Owns how numbers are written into lists, and how gonio's own columns are called there. Knows no format.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.io.errors import FormatError
from gonio.particle.texts import ROWS_AT_A_TIME, Texts

T = TypeVar("T")


def numbers_or_text(values: Sequence[str]) -> NDArray:
    """Return a column as numbers where all are, else as text."""
    try:
        return plain_floats(values)
    except ValueError:
        return np.array(values)


def check_writable(path: Path, columns: Mapping[str, Sequence[str]], unwritable: re.Pattern[str]) -> None:
    """Refuse texts that a file cannot hold as they are: those in which a pattern is found.

    Raises
    ------
    FormatError
        Names the file to be written, the column, the text and its row.
    """
    for label, values in columns.items():
        pieces = (values[at : at + ROWS_AT_A_TIME] for at in range(0, len(values), ROWS_AT_A_TIME))
        wrong = next((value for piece in pieces for value in dict.fromkeys(piece) if unwritable.search(value)), None)
        if wrong is not None:
            problem = f"cannot hold {label} {wrong!r} of row {list(values).index(wrong) + 1}"
            raise FormatError(path, problem, "rename it, or write another format")


def plain_float(text: str) -> float:
    """Return a number as files have it; ValueError for what only Python takes for one, such as 1_000."""
    if not text.isascii() or "_" in text:
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def plain_floats(values: Sequence[str]) -> NDArray[np.float64]:
    """Return numbers as files have them, shape (m,); ValueError as ``plain_float``."""
    if not _is_plain(values):
        raise ValueError("a text among them is not a number")
    return np.array(values, dtype=np.float64)


def _is_plain(values: Sequence[str]) -> bool:
    """Return whether texts are without what Python alone takes for digits: 1_000, and those of other scripts."""
    if isinstance(values, Texts):
        return not values.is_packed or (b"_" not in (joined := values.values.tobytes()) and joined.isascii())
    text = "".join(values)
    return text.isascii() and "_" not in text


def is_number(text: str) -> bool:
    """Return whether files have a number so: nan and inf are numbers, 1_000 is none."""
    try:
        plain_float(text)
    except ValueError:
        return False
    return True


def float_or(text: str, otherwise: T) -> float | T:
    """Return a text as a finite number, or else something else."""
    try:
        number = plain_float(text)
    except ValueError:
        return otherwise
    return number if math.isfinite(number) else otherwise


def own_label(name: str) -> str:
    """Return the label of gonio's column in a list: ``log_likelihood`` is written as ``gonioLogLikelihood``."""
    return "gonio" + "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z]+", name))


def own_name(label: str) -> str:
    """Return the inverse of ``own_label``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", label.removeprefix("gonio")).lower()


def token(value: object) -> str:
    """Return a value as one word."""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return f"{value:.9g}" if isinstance(value, float | np.floating) else str(value)


def decimals(labels: Sequence[str], values: ArrayLike) -> dict[str, Texts]:
    """Return numbers, shape (m, labels), as columns of text with six decimals."""
    # Adding 0 turns -0 into 0, which reads better.
    rounded = np.round(np.asarray(values, dtype=np.float64), 6)
    rounded += 0.0
    return {label: Texts(rounded[:, i], "{:.6f}".format) for i, label in enumerate(labels)}


def number_text(value: float) -> str:
    """Return a number as short as it can be written with six decimals, or in full where that would lose digits."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) < 1e15 and value == int(value):
        return str(int(value))
    if abs(value) < 1e-3 or abs(value) >= 1e9:
        return f"{value:.9g}"
    return f"{value:.6f}".rstrip("0").rstrip(".")
