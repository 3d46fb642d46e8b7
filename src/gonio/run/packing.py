"""Values as bytes without objects: JSON, and the content of arrays after it.

The type of a value is known to who reads it, never stated by the bytes: a dataclass is made by its own constructor,
which checks, from fields of its annotated types. An array must have the dtype of its annotation, and as many bytes as
its shape. So bytes from elsewhere give a value of the right type, or one error.

    JSON, a newline, the arrays one after another; in the JSON an array is its dtype, its shape and its order
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from inspect import isroutine
from math import prod
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
from scipy.spatial.transform import Rotation

# Kinds of dtype of which all bytes are values: integers, real and complex numbers.
NUMBERS = "iufc"
# How far the squared length of a quaternion may be from one.
UNIT = 1e-6


def result_type(function: Callable[..., Any]) -> Any:
    """Return the type of a function's results: its attribute ``returns``, or else its annotation.

    Raises
    ------
    TypeError
        It states none.
    """
    stated = getattr(function, "returns", None)
    if stated is None:
        stated = get_type_hints(function if isroutine(function) else type(function).__call__).get("return")
    if stated is None:
        raise TypeError(f"{function!r} does not state the type of its results, which a checkpoint needs")
    return stated


def pack(value: object, kind: Any) -> bytes:
    """Return a value of a type as bytes.

    Parameters
    ----------
    kind
        float, int, bool, str; an Enum, a Rotation, an array of numbers (``NDArray[np.float64]``); a dataclass, tuple,
        list or optional value of these.

    Raises
    ------
    TypeError
        It is not of this type, or the type is none of these.
    """
    arrays: list[bytes] = []
    tree = _codec(kind).write(value, arrays)
    return b"".join([json.dumps(tree, separators=(",", ":")).encode(), b"\n", *arrays])


def unpack(content: bytes, kind: Any) -> Any:
    """Return the value of a type that ``pack`` made bytes of.

    Raises
    ------
    ValueError
        The bytes are no such value.
    """
    try:
        head, _, rest = content.partition(b"\n")
        arrays = _Arrays(rest)
        value = _codec(kind).read(json.loads(head), arrays)
    except Exception as error:  # of any kind: the bytes decide what fails
        raise ValueError(f"{type(error).__name__}: {error}"[:200]) from error
    if arrays.at != len(rest):
        raise ValueError(f"{len(rest) - arrays.at} bytes too many")
    return value


class _Arrays:
    """The content of arrays, of which one after another is taken."""

    def __init__(self, content: bytes) -> None:
        self._content, self.at = content, 0

    def take(self, dtype: np.dtype, shape: list[int], order: Any) -> np.ndarray:
        if any(type(n) is not int or n < 0 for n in shape) or order not in ("C", "F"):
            raise ValueError(f"no shape and order of an array: {shape!r}, {order!r}")
        count = prod(shape)
        if count * dtype.itemsize > len(self._content) - self.at:
            raise ValueError(f"an array of {shape} is longer than its content")
        flat = np.frombuffer(self._content, dtype, count, self.at) if count else np.empty(0, dtype)
        self.at += flat.nbytes
        return flat.reshape(shape, order=order).copy(order=order)


class _Codec(NamedTuple):
    """How values of a type are written to JSON and arrays, and read."""

    write: Callable[[Any, list[bytes]], Any]
    read: Callable[[Any, _Arrays], Any]


@cache
def _codec(kind: Any) -> _Codec:
    origin, of = get_origin(kind), get_args(kind)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind is Rotation:
        return _rotation()
    if origin is np.ndarray:
        return _array(np.dtype(get_args(of[1])[0]))
    if origin in (Union, UnionType) and len(of) == 2 and NoneType in of:
        return _optional(_codec(next(one for one in of if one is not NoneType)))
    if origin is list or (origin is tuple and of[1:] == (...,)):
        return _many(origin, _codec(of[0]))
    if origin is tuple:
        return _record(tuple, [(str(i), _codec(one)) for i, one in enumerate(of)], lambda value, i: value[int(i)])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return _Codec(lambda value, _: kind(value).name, lambda tree, _: kind[_of_type(tree, str)])
    if isinstance(kind, type) and is_dataclass(kind):
        types = get_type_hints(kind)
        inner = [(field.name, _codec(types[field.name])) for field in fields(kind)]
        return _record(lambda values: kind(*values), inner, getattr, of=kind)
    raise TypeError(f"a checkpoint holds no {kind}")


def _of_type(value: Any, kind: type) -> Any:
    """Return a value that is exactly of a type: in JSON, true is no number."""
    if type(value) is not kind:
        raise ValueError(f"{kind.__name__} expected, got {type(value).__name__}")
    return value


def _plain(kind: type, accepted: Any) -> _Codec:
    def write(value: Any, _: list[bytes]) -> Any:
        if not isinstance(value, accepted):
            raise TypeError(f"{kind.__name__} expected, got {value!r}")
        return kind(value)

    return _Codec(write, lambda tree, _: _of_type(tree, kind))


_PLAIN = {
    float: _plain(float, Real),
    int: _plain(int, Integral),
    bool: _plain(bool, bool | np.bool_),
    str: _plain(str, str),
}


def _array(dtype: np.dtype) -> _Codec:
    if dtype.kind not in NUMBERS:
        raise TypeError(f"a checkpoint holds no arrays of {dtype}")

    def write(value: Any, arrays: list[bytes]) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype != dtype:
            raise TypeError(f"an array of {dtype} expected, got {getattr(value, 'dtype', type(value).__name__)}")
        order: Literal["C", "F"] = "F" if value.flags.f_contiguous and not value.flags.c_contiguous else "C"
        arrays.append(value.tobytes(order))
        return [dtype.str, value.shape, order]

    def read(tree: Any, arrays: _Arrays) -> np.ndarray:
        stated, shape, order = _of_type(tree, list)
        if stated != dtype.str:
            raise ValueError(f"an array of {dtype.str} expected, got {stated!r}")
        return arrays.take(dtype, _of_type(shape, list), order)

    return _Codec(write, read)


def _rotation() -> _Codec:
    quaternions = _array(np.dtype(np.float64))

    def read(tree: Any, arrays: _Arrays) -> Rotation:
        values = quaternions.read(tree, arrays)
        if values.shape[-1:] != (4,) or not (abs((values * values).sum(axis=-1) - 1.0) < UNIT).all():
            raise ValueError("quaternions must be of length one")
        return Rotation(values, normalize=False)  # the bits that were written

    return _Codec(lambda value, arrays: quaternions.write(value.as_quat(), arrays), read)


def _optional(inner: _Codec) -> _Codec:
    return _Codec(
        lambda value, arrays: None if value is None else inner.write(value, arrays),
        lambda tree, arrays: None if tree is None else inner.read(tree, arrays),
    )


def _many(kind: type, inner: _Codec) -> _Codec:
    return _Codec(
        lambda values, arrays: [inner.write(value, arrays) for value in values],
        lambda tree, arrays: kind([inner.read(value, arrays) for value in _of_type(tree, list)]),
    )


def _record(
    make: Callable[[list[Any]], Any], inner: list[tuple[str, _Codec]], get: Callable[[Any, str], Any], of: Any = tuple
) -> _Codec:
    def write(value: Any, arrays: list[bytes]) -> Any:
        if type(value) is not of or (of is tuple and len(value) != len(inner)):
            raise TypeError(f"{of.__name__} expected, got {value!r}")
        return [codec.write(get(value, name), arrays) for name, codec in inner]

    def read(tree: Any, arrays: _Arrays) -> Any:
        values = _of_type(tree, list)
        if len(values) != len(inner):
            raise ValueError(f"{len(inner)} values expected, got {len(values)}")
        return make([codec.read(one, arrays) for (_, codec), one in zip(inner, values, strict=True)])

    return _Codec(write, read)
