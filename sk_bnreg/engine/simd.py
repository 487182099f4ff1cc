"""Vector instructions that numba has no words for: tiles of a matrix product, transposes, bits of floats, a barrier.

Sums of a matrix product run over the inner dimension in its order, each in one register, so that the bits of a
product depend neither on how it is divided among threads nor on the width of a machine's vectors.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_FEATURES = llvm.get_host_cpu_features()
_MANY_REGISTERS = bool(_FEATURES.get("avx512f")) or "aarch64" in llvm.get_process_triple()
VECTOR_BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16
TILE_ROWS = 8 if _MANY_REGISTERS else 6  # with two vectors in a row, as many accumulators as registers allow
INNER = 256  # rows of b that a panel of two vectors keeps in the first-level cache
SPREAD = 2**19  # bytes over which these rows are more pages than a core finds at once, so that a copy is faster

_I32, _I64 = ir.IntType(32), ir.IntType(64)


class _View:
    """An array as its pointer and strides, in LLVM's terms.

    Attributes
    ----------
    data : pointer
    strides : list
        In bytes, per axis.
    n_bytes : int
        Of a number.
    lanes : int
        Numbers in a vector.
    vector : type
    """

    def __init__(self, context: Any, builder: Any, array_type: Any, value: Any):
        self.builder = builder
        self.item = context.get_value_type(array_type.dtype)
        self.n_bytes = array_type.dtype.bitwidth // 8
        array = context.make_array(array_type)(context, builder, value=value)
        self.data = array.data
        self.strides = cgutils.unpack_tuple(builder, array.strides)
        self.lanes = VECTOR_BYTES // self.n_bytes
        self.vector = ir.VectorType(self.item, self.lanes)

    def at(self, *place: Any) -> Any:
        """Return a pointer to an element."""
        pointer = self.data
        for index, stride in zip(place, self.strides, strict=True):
            pointer = cgutils.pointer_add(self.builder, pointer, self.builder.mul(index, stride))
        return pointer

    def turn(self, turned: Any) -> None:
        """Exchange rows and columns if `turned`."""
        rows, columns = self.strides
        choose = partial(self.builder.select, self.builder.trunc(turned, ir.IntType(1)))
        self.strides = [choose(columns, rows), choose(rows, columns)]

    def load(self, pointer: Any) -> Any:
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.n_bytes)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.n_bytes)

    def splat(self, value: Any) -> Any:
        return _splat(self.builder, value, self.lanes)

    def call(self, name: str, arguments: list[Any], returned: Any) -> Any:
        """Call an LLVM intrinsic on vectors of this array."""
        of_type = ir.FunctionType(returned, [argument.type for argument in arguments])
        name = f"llvm.{name}.v{self.lanes}f{8 * self.n_bytes}" + (".p0" if "masked" in name else "")
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, of_type, name), arguments)


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, value, _I32(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def make_tile(n_rows: int, n_vectors: int) -> Callable[..., None]:
    """Return a function for a tile of a product, `n_rows` by `n_vectors` vectors.

    It is ``tile(a, turned, b, c, shift, least, i, j, k, k_stop, n_columns)``: rows from i and columns from j, below
    `n_columns`, of c become ``a[:, k:k_stop] @ b[k:k_stop]``, or with ``a.T`` if it is `turned`, on top of `shift` or,
    if k > 0, of what is there, and at least `least`.

    Parameters
    ----------
    n_rows, n_vectors : int
        Their product is the number of sums that are kept in registers.
    """

    @intrinsic
    def tile(typing, a, turned, b, c, shift, least, i, j, k, k_stop, n_columns):
        def generate(context, builder, signature, arguments):
            _Tile(n_rows, n_vectors, context, builder, signature, arguments).generate()
            return context.get_dummy_value()

        return types.void(a, turned, b, c, shift, least, i, j, k, k_stop, n_columns), generate

    return tile


class _Tile:
    """The instructions of `make_tile`: an accumulator per vector of c, all of which stay in registers."""

    def __init__(self, n_rows: int, n_vectors: int, context: Any, builder: Any, signature: Any, arguments: Any):
        self.n_rows, self.n_vectors, self.builder = n_rows, n_vectors, builder
        self.a, self.b, self.c, self.shift = (
            _View(context, builder, signature.args[n], arguments[n]) for n in (0, 2, 3, 4)
        )
        self.least, self.i, self.j, self.k_start, self.k_stop, n_columns = arguments[5:]
        self.a.turn(arguments[1])
        self.step = self.a.n_bytes * self.c.lanes  # from vector to vector
        self.left = builder.trunc(builder.sub(n_columns, self.j), _I32)

    def generate(self) -> None:
        """Begin with the shifts or with what is in c, add products in a loop, and write the sums."""
        builder = self.builder
        starting, adding, loop, done = (
            builder.append_basic_block(name) for name in ("starting", "adding", "loop", "done")
        )
        builder.cbranch(cgutils.is_not_null(builder, self.k_start), adding, starting)

        builder.position_at_end(starting)
        rows = [builder.load(self.shift.at(builder.add(self.i, _I64(row)))) for row in range(self.n_rows)]
        shifts = [value for row in rows for value in [self.c.splat(row)] * self.n_vectors]
        builder.branch(loop)

        builder.position_at_end(adding)
        zero = ir.Constant(self.c.vector, [0.0] * self.c.lanes)
        align, vector = _I32(self.c.n_bytes), self.c.vector
        there = [self.c.call("masked.load", [cell, align, mask, zero], vector) for cell, mask in self._cells()]
        builder.branch(loop)

        builder.position_at_end(loop)
        sums = self._add_products([(starting, shifts), (adding, there)], loop, done)
        builder.position_at_end(done)
        self._write(sums)

    def _cells(self) -> Iterator[tuple[Any, Any]]:
        """Yield pointer and mask of each vector of the tile in c, computed where they are used."""
        builder, c = self.builder, self.c
        lane = ir.Constant(ir.VectorType(_I32, c.lanes), list(range(c.lanes)))
        masks = [
            builder.icmp_signed("<", lane, c.splat(builder.sub(self.left, _I32(v * c.lanes))))
            for v in range(self.n_vectors)
        ]
        row = c.at(self.i, self.j)
        for _ in range(self.n_rows):
            for v in range(self.n_vectors):
                cell = cgutils.pointer_add(builder, row, _I64(v * self.step))
                yield builder.bitcast(cell, c.vector.as_pointer()), masks[v]
            row = cgutils.pointer_add(builder, row, c.strides[0])

    def _add_products(self, begun: list[tuple[Any, list[Any]]], loop: Any, done: Any) -> list[Any]:
        """Write the loop over k, entered from blocks with sums that were begun there; return the sums after it."""
        builder, a, b, c = self.builder, self.a, self.b, self.c
        k = builder.phi(_I64)
        sums = [builder.phi(c.vector) for _ in range(self.n_rows * self.n_vectors)]
        of_b = [
            b.load(cgutils.pointer_add(builder, b.at(k, self.j), _I64(v * self.step))) for v in range(self.n_vectors)
        ]
        new: list[Any] = []
        for row in range(self.n_rows):
            of_a = c.splat(builder.load(a.at(builder.add(self.i, _I64(row)), k)))
            new += [c.call("fma", [of_a, value, sums[len(new) + v]], c.vector) for v, value in enumerate(of_b)]
        k_next = builder.add(k, _I64(1))
        for block, k_value, values in [
            *((block, self.k_start, values) for block, values in begun),
            (loop, k_next, new),
        ]:
            k.add_incoming(k_value, block)
            for total, value in zip(sums, values, strict=True):
                total.add_incoming(value, block)
        builder.cbranch(builder.icmp_signed("<", k_next, self.k_stop), loop, done)
        return new

    def _write(self, sums: list[Any]) -> None:
        """Write sums, at least `least`, to c."""
        builder, c = self.builder, self.c
        least = c.splat(self.least)
        sums = [builder.select(builder.fcmp_ordered("<", value, least), least, value) for value in sums]
        full = builder.icmp_signed(">=", self.left, _I32(self.n_vectors * c.lanes))
        with builder.if_else(full, likely=True) as (then, otherwise):
            with then:  # what a masked store wrote has to reach the cache before it can be read
                for (cell, _), value in zip(self._cells(), sums, strict=True):
                    c.store(value, cell)
            with otherwise:
                for (cell, mask), value in zip(self._cells(), sums, strict=True):
                    c.call("masked.store", [value, cell, _I32(c.n_bytes), mask], ir.VoidType())


@intrinsic
def transpose_tile(typing, a, b, i, j):
    """Write ``a[i : i + n, j : j + n].T`` to ``b[j:, i:]``, where n numbers fill a vector.

    Parameters
    ----------
    a, b : ndarray of two dimensions
    i, j : int
    """

    def generate(context, builder, signature, arguments):
        a, b = (_View(context, builder, signature.args[n], arguments[n]) for n in range(2))
        i, j = arguments[2:]
        n = a.lanes
        rows = [a.load(a.at(builder.add(i, _I64(row)), j)) for row in range(n)]
        order = [place for pair in zip(range(n), range(n, 2 * n), strict=True) for place in pair]
        low, high = (ir.Constant(ir.VectorType(_I32, n), half) for half in (order[:n], order[n:]))
        for _ in range(n.bit_length() - 1):  # interleaving both halves of the rows turns the bits of all places by one
            pairs = zip(rows[: n // 2], rows[n // 2 :], strict=True)
            rows = [builder.shuffle_vector(x, y, half) for x, y in pairs for half in (low, high)]
        for row, value in enumerate(rows):
            b.store(value, b.at(builder.add(j, _I64(row)), i))
        return context.get_dummy_value()

    return types.void(a, b, i, j), generate


@intrinsic
def copy_row(typing, a, i, b, j, n_columns):
    """Write the first columns of a row of a to one of b, whose rows end after a vector.

    Parameters
    ----------
    a, b : ndarray of two dimensions
    i, j : int
        The rows of a and b.
    n_columns : int
    """

    def generate(context, builder, signature, arguments):
        a, b = (_View(context, builder, signature.args[n], arguments[n]) for n in (0, 2))
        i, j, n_columns = arguments[1], arguments[3], arguments[4]
        lane = ir.Constant(ir.VectorType(_I64, a.lanes), list(range(a.lanes)))
        zero = ir.Constant(a.vector, [0.0] * a.lanes)
        with cgutils.for_range_slice(builder, _I64(0), n_columns, _I64(a.lanes), _I64) as (column, _):
            mask = builder.icmp_signed("<", lane, a.splat(builder.sub(n_columns, column)))
            pointer = builder.bitcast(a.at(i, column), a.vector.as_pointer())
            b.store(a.call("masked.load", [pointer, _I32(a.n_bytes), mask, zero], a.vector), b.at(j, column))
        return context.get_dummy_value()

    return types.void(a, i, b, j, n_columns), generate


@intrinsic
def block(typing, flat, at, n_rows, n_columns):
    """View a part of a flat array as a matrix; nothing counts the reference.

    A slice would count it, and a pass takes many.

    Parameters
    ----------
    flat : ndarray of one dimension
        It has to outlive the view.
    at : int
        Where the part begins.
    n_rows, n_columns : int
    """

    def generate(context, builder, signature, arguments):
        flat, at, n_rows, n_columns = arguments
        given = context.make_array(signature.args[0])(context, builder, value=flat)
        made = context.make_array(signature.return_type)(context, builder)
        n_bytes = _I64(signature.args[0].dtype.bitwidth // 8)
        context.populate_array(
            made,
            data=builder.gep(given.data, [at]),
            shape=cgutils.pack_array(builder, [n_rows, n_columns]),
            strides=cgutils.pack_array(builder, [builder.mul(n_columns, n_bytes), n_bytes]),
            itemsize=n_bytes,
            meminfo=None,
        )
        return made._getvalue()

    return types.Array(flat.dtype, 2, "C")(flat, at, n_rows, n_columns), generate


@intrinsic
def float_of(typing, bits):
    """Return the float32 with the bits of an int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(types.float32))

    return types.float32(types.int32), generate


@intrinsic
def atomic_add(typing, numbers, place, value):
    """Add to an integer of an array as one operation among all threads; return what it was.

    Parameters
    ----------
    numbers : ndarray of int64
    place, value : int
    """

    def generate(context, builder, signature, arguments):
        numbers, place, value = arguments
        array = context.make_array(signature.args[0])(context, builder, value=numbers)
        return builder.atomic_rmw("add", builder.gep(array.data, [place]), value, "seq_cst")

    return types.int64(types.Array(types.int64, 1, "C"), types.int64, types.int64), generate


@intrinsic
def atomic_load(typing, numbers, place):
    """Return an integer of an array, which other threads write."""

    def generate(context, builder, signature, arguments):
        numbers, place = arguments
        array = context.make_array(signature.args[0])(context, builder, value=numbers)
        return builder.load_atomic(builder.gep(array.data, [place]), "seq_cst", align=8)

    return types.int64(types.Array(types.int64, 1, "C"), types.int64), generate


@intrinsic
def let_others_run(typing):
    """Offer this thread's core to others."""

    def generate(context, builder, signature, arguments):
        name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(_I32, []), name)
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), generate


OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def _make_columns(n_vectors: int) -> Callable[..., None]:
    """Return a function for the columns of a product that fill so many vectors."""
    tall, tile_4, tile_2, tile_1 = (make_tile(n_rows, n_vectors) for n_rows in (TILE_ROWS, 4, 2, 1))

    @numba.njit(forceinline=True, **OPTIONS)
    def columns(a, turned, b, c, shift, least, i, i_stop, j, k, k_stop, n_columns):
        while i + TILE_ROWS <= i_stop:
            tall(a, turned, b, c, shift, least, i, j, k, k_stop, n_columns)
            i += TILE_ROWS
        if i + 4 <= i_stop:
            tile_4(a, turned, b, c, shift, least, i, j, k, k_stop, n_columns)
            i += 4
        if i + 2 <= i_stop:
            tile_2(a, turned, b, c, shift, least, i, j, k, k_stop, n_columns)
            i += 2
        if i < i_stop:
            tile_1(a, turned, b, c, shift, least, i, j, k, k_stop, n_columns)

    return columns


_one_vector, _two_vectors, _tall = _make_columns(1), _make_columns(2), make_tile(TILE_ROWS, 2)


@numba.njit(**OPTIONS)
def multiply(a, turned, b, c, shift, least, i, i_stop, n_inner, n_columns):
    """Write ``maximum(a @ b + shift[:, None], least)`` to some rows of c. Nan stays nan.

    Parameters
    ----------
    a : ndarray of shape (H, K), or (K, H) if `turned`
    turned : bool
        Whether a.T is meant.
    b : ndarray of shape (K, B or more)
        Its rows are contiguous, and are read to the end of a vector, long ones to that of a second.
    c : ndarray of shape (H, B or more)
        Its rows are contiguous.
    shift : ndarray of shape (H,)
    least : float
    i, i_stop : int
        Rows of c, from and to.
    n_inner, n_columns : int
        K and B.
    """
    lanes = VECTOR_BYTES // c.itemsize
    if i_stop - i >= 8 * TILE_ROWS and min(INNER, n_inner) * b.shape[1] * c.itemsize > SPREAD:
        whole = i + (i_stop - i) // TILE_ROWS * TILE_ROWS
        _multiply_copies(a, turned, b, c, shift, least, i, whole, n_inner, n_columns)
        i = whole
    for k in range(0, n_inner if i < i_stop else 0, INNER):
        k_stop = min(k + INNER, n_inner)
        least_now = c.dtype.type(least if k_stop == n_inner else -np.inf)
        j = 0
        while j < n_columns:
            if n_columns - j > lanes:
                _two_vectors(a, turned, b, c, shift, least_now, i, i_stop, j, k, k_stop, n_columns)
                j += 2 * lanes
            else:
                _one_vector(a, turned, b, c, shift, least_now, i, i_stop, j, k, k_stop, n_columns)
                j += lanes


@numba.njit(**OPTIONS)
def _multiply_copies(a, turned, b, c, shift, least, i, i_stop, n_inner, n_columns):
    """Do so for rows of whole tiles, with copies of a and b in the order in which tiles read them.

    Where rows are far apart each is on a page of its own, and a core finds only so many pages at once.
    """
    width = 2 * VECTOR_BYTES // c.itemsize
    room = np.empty((i_stop - i + width) * INNER + width, c.dtype)
    panel_at = -room.ctypes.data % VECTOR_BYTES // c.itemsize
    rows_at = panel_at + INNER * width
    for k in range(0, n_inner, INNER):
        k_stop = min(k + INNER, n_inner)
        n, at = k_stop - k, rows_at
        for row in range(i, i_stop, TILE_ROWS):
            if turned:
                for inner in range(k, k_stop):
                    for place in range(TILE_ROWS):
                        room[at + place] = a[inner, row + place]
                    at += TILE_ROWS
            else:
                for inner in range(k, k_stop):
                    for place in range(TILE_ROWS):
                        room[at + place] = a[row + place, inner]
                    at += TILE_ROWS
        least_now = c.dtype.type(least if k_stop == n_inner else -np.inf)
        for j in range(0, n_columns, width):
            panel, part = block(room, panel_at, n, width), b[k:k_stop, j:]
            for inner in range(n):
                copy_row(part, inner, panel, inner, width)
            # the tile's places are those in a, b and c
            panel = block(room, panel_at - k * width - j, k_stop, width)
            for row in range(i, i_stop, TILE_ROWS):
                rows = block(room, rows_at + (row - i) * n - k * TILE_ROWS - row, k_stop, TILE_ROWS)
                _tall(rows, True, panel, c, shift, least_now, row, j, k, k_stop, n_columns)


@numba.njit(**OPTIONS)
def transpose(a, b, i, i_stop, j, j_stop):
    """Write rows and columns of a, from and to, to ``b[j:, i:]``; both are used to the end of a whole tile.

    Parameters
    ----------
    a, b : ndarray of two dimensions
    i, i_stop, j, j_stop : int
    """
    lanes = VECTOR_BYTES // a.itemsize
    for row in range(i, i_stop, lanes):
        for column in range(j, j_stop, lanes):
            transpose_tile(a, b, row, column)


@numba.njit(**OPTIONS)
def meet(arrivals, n_threads):
    """Wait until all threads of a team are here.

    They look again and again, as they seldom wait for longer than waking up would take; after a while they let others
    run.

    Parameters
    ----------
    arrivals : ndarray of shape (1,)
        Counts them, from 0 on.
    n_threads : int
        The size of the team.
    """
    if n_threads == 1:
        return
    here = atomic_add(arrivals, 0, 1) + 1
    all_here = -(-here // n_threads) * n_threads
    n_looks = 0
    while atomic_load(arrivals, 0) < all_here:
        n_looks += 1
        if n_looks > 1000:
            let_others_run()
