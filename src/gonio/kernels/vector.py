"""Eight floats at a time: the one step that LLVM does not vectorise by itself, written in its own instructions.

Around a sample lie 4 x 4 rows of four complex numbers, and a row is eight adjacent floats. LLVM would gather one float
for each of sixteen samples, which is six times slower; here a row is one register. ``scratch_float`` and
``scratch_int`` allocate memory of a fixed size on the stack, so that the compiler knows that no two arrays overlap.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic as _intrinsic
from numba.extending import models, register_model

from gonio.kernels.window import WIDTH

intrinsic: Any = _intrinsic  # its type does not say that the typing context is not an argument of the caller

# Samples that are processed together: enough for vector registers, few enough that the last block of a short list is
# not mostly empty; their intermediate values stay in the fastest cache.
BLOCK = 32
# Rows of BLOCK floats in the memory of one call of ``scratch_float``.
SCRATCH_ROWS = 64

_FLOAT, _INT, _LONG = ir.FloatType(), ir.IntType(32), ir.IntType(64)
_ROW = ir.VectorType(_FLOAT, 2 * WIDTH)
_FLOATS = types.CPointer(types.float32)


def _scratch(numba_type: types.Type, llvm_type: ir.Type, count: int) -> Any:
    @intrinsic
    def allocate(typing_context):
        def generate(context, builder, signature, arguments):
            with builder.goto_entry_block():
                place = builder.alloca(ir.ArrayType(llvm_type, count))
                place.align = 64
            return builder.bitcast(place, llvm_type.as_pointer())

        return types.CPointer(numba_type)(), generate

    return allocate


scratch_float = _scratch(types.float32, _FLOAT, SCRATCH_ROWS * BLOCK)
scratch_int = _scratch(types.int32, _INT, BLOCK)


class _Vectors:
    """Arithmetic on rows of eight floats in the block that is being built."""

    def __init__(self, builder: ir.IRBuilder) -> None:
        self.builder = builder

    def times(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fmul(a, b, flags=("fast",))

    def plus(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.builder.fadd(a, b, flags=("fast",))

    def added(self, a: ir.Value, b: ir.Value, total: ir.Value | None) -> ir.Value:
        """Return a b + total."""
        product = self.times(a, b)
        return product if total is None else self.plus(product, total)

    def picked(self, a: ir.Value, b: ir.Value, places: list[int]) -> ir.Value:
        """Return elements of a (0-7) and b (8-15)."""
        return self.builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INT, len(places)), places))

    def load(self, base: ir.Value, offset: ir.Value) -> ir.Value:
        """Load eight floats."""
        place = self.builder.bitcast(self.builder.gep(base, [offset]), _ROW.as_pointer())
        return self.builder.load(place, align=4)

    def store(self, value: ir.Value, base: ir.Value, offset: ir.Value) -> None:
        place = self.builder.bitcast(self.builder.gep(base, [offset]), _ROW.as_pointer())
        self.builder.store(value, place, align=4)

    def weights(self, base: ir.Value, sample: ir.Value, axis: int) -> list[ir.Value]:
        """Load the four weights of a sample along an axis from rows (3, 4, BLOCK)."""
        rows = (_LONG((axis * WIDTH + tap) * BLOCK) for tap in range(WIDTH))
        return [self.builder.load(self.builder.gep(base, [self.builder.add(sample, row)])) for row in rows]

    def everywhere(self, scalar: ir.Value) -> ir.Value:
        """Return one float, eight times."""
        first = self.builder.insert_element(ir.Constant(_ROW, ir.Undefined), scalar, _INT(0))
        return self.picked(first, first, [0] * 8)

    def in_pairs(self, scalars: list[ir.Value]) -> ir.Value:
        """Return four floats, each twice: for a real and an imaginary part."""
        row: ir.Value = ir.Constant(_ROW, ir.Undefined)
        for place, scalar in enumerate(scalars):
            row = self.builder.insert_element(row, scalar, _INT(place))
        return self.picked(row, row, [0, 0, 1, 1, 2, 2, 3, 3])

    def sums(self, a: ir.Value, b: ir.Value, c: ir.Value, d: ir.Value) -> ir.Value:
        """Return the complex sums of four rows, one after the other."""
        low, high = [0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15]
        first = self.plus(self.picked(a, b, low), self.picked(a, b, high))
        second = self.plus(self.picked(c, d, low), self.picked(c, d, high))
        even, odd = [0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]
        return self.plus(self.picked(first, second, even), self.picked(first, second, odd))


def _rows(v: _Vectors, grid: ir.Value, place: ir.Value, step: ir.Value) -> list[ir.Value]:
    """Load four rows, each a ``step`` after the previous one."""
    return [v.load(grid, v.builder.add(place, v.builder.mul(step, _LONG(i)))) for i in range(WIDTH)]


@intrinsic
def interpolate_rows(typing_context, grid, place, row, plane, weights, slopes, sample, out):
    """Write value and gradient of the spectrum at one sample into ``out``.

    ``grid`` is the address of the flat grid; it and ``place`` as in ``sample.corner``; ``row`` and ``plane`` the floats
    from one to the next; ``weights`` and ``slopes`` (3, 4, BLOCK) those of the window along x, y, z. Row ``sample`` of
    ``out`` (BLOCK, 8) receives re and im of G, dG/dqx, dG/dqy, dG/dqz.
    """
    integers = (types.int64,) * 3

    def generate(context, builder, signature, arguments):
        address, place, row, plane, weights, slopes, sample, out = arguments
        grid = builder.inttoptr(address, _FLOAT.as_pointer())
        v = _Vectors(builder)
        wy, dy = ([v.everywhere(w) for w in v.weights(base, sample, 1)] for base in (weights, slopes))
        wz, dz = ([v.everywhere(w) for w in v.weights(base, sample, 2)] for base in (weights, slopes))
        value = y_slope = z_slope = None
        for i in range(WIDTH):
            level = slope = None
            rows = _rows(v, grid, builder.add(place, builder.mul(plane, _LONG(i))), row)
            for w, d, values in zip(wy, dy, rows, strict=True):
                level, slope = v.added(w, values, level), v.added(d, values, slope)
            value, y_slope = v.added(wz[i], level, value), v.added(wz[i], slope, y_slope)
            z_slope = v.added(dz[i], level, z_slope)
        wx, dx = (v.in_pairs(v.weights(base, sample, 0)) for base in (weights, slopes))
        result = v.sums(v.times(wx, value), v.times(dx, value), v.times(wx, y_slope), v.times(wx, z_slope))
        v.store(result, out, builder.mul(sample, _LONG(8)))
        return context.get_dummy_value()

    return types.void(types.uintp, *integers, _FLOATS, _FLOATS, types.int64, _FLOATS), generate


@intrinsic
def interpolate_row_values(typing_context, grid, place, row, plane, weights, sample, out):
    """Write the spectrum's value at one sample into row ``sample`` of ``out`` (BLOCK, 2); see ``interpolate_rows``."""
    integers = (types.int64,) * 3

    def generate(context, builder, signature, arguments):
        address, place, row, plane, weights, sample, out = arguments
        grid = builder.inttoptr(address, _FLOAT.as_pointer())
        v = _Vectors(builder)
        wy, wz = ([v.everywhere(w) for w in v.weights(weights, sample, axis)] for axis in (1, 2))
        value = None
        for i in range(WIDTH):
            level = None
            for w, values in zip(
                wy, _rows(v, grid, builder.add(place, builder.mul(plane, _LONG(i))), row), strict=True
            ):
                level = v.added(w, values, level)
            value = v.added(wz[i], level, value)
        terms = v.times(v.in_pairs(v.weights(weights, sample, 0)), value)
        total = v.sums(terms, terms, terms, terms)
        for part in range(2):
            place_out = builder.gep(out, [builder.add(builder.mul(sample, _LONG(2)), _LONG(part))])
            builder.store(builder.extract_element(total, _INT(part)), place_out)
        return context.get_dummy_value()

    return types.void(types.uintp, *integers, _FLOATS, types.int64, _FLOATS), generate


# As many floats as the widest vector register holds.
LANES = 16


class _LanesType(types.Type):
    """LANES floats as one value."""

    def __init__(self) -> None:
        super().__init__(name="lanes")


_lanes = _LanesType()


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, numba_type: types.Type) -> None:
        super().__init__(manager, numba_type, ir.VectorType(_FLOAT, LANES))


def _lanes_at(context: Any, builder: ir.IRBuilder, array_type: types.Type, array: Any, row: ir.Value) -> ir.Value:
    data = context.make_array(array_type)(context, builder, array).data
    place = builder.gep(data, [builder.mul(row, _LONG(LANES))])
    return builder.bitcast(place, ir.VectorType(_FLOAT, LANES).as_pointer())


@intrinsic
def lanes_of_zero(typing_context):
    """Return zero in all lanes."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(ir.VectorType(_FLOAT, LANES), [0.0] * LANES)

    return _lanes(), generate


@intrinsic
def load_lanes(typing_context, array, row):
    """Load a row of a contiguous array (m, LANES) of float32."""

    def generate(context, builder, signature, arguments):
        return builder.load(_lanes_at(context, builder, signature.args[0], *arguments), align=4)

    return _lanes(array, types.int64), generate


@intrinsic
def store_lanes(typing_context, array, row, value):
    """Write a row of a contiguous array (m, LANES) of float32."""

    def generate(context, builder, signature, arguments):
        array, row, value = arguments
        builder.store(value, _lanes_at(context, builder, signature.args[0], array, row), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, _lanes), generate


@intrinsic
def add_scaled(typing_context, total, factor, value):
    """Return total + factor value, in all lanes."""

    def generate(context, builder, signature, arguments):
        total, factor, value = arguments
        kind = ir.VectorType(_FLOAT, LANES)
        first = builder.insert_element(ir.Constant(kind, ir.Undefined), factor, _INT(0))
        every = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_INT, LANES), [0] * LANES))
        return builder.fadd(total, builder.fmul(every, value, flags=("fast",)), flags=("fast",))

    return _lanes(_lanes, types.float32, _lanes), generate
