"""The multilinear form and its open slots on CUDA.

As on the CPU, one pass visits the edges of each row of a compressed sparse graph: rows are targets
to open y, or sources to open x. A program has one row and a tile of features. It takes several
edges at a time, so that enough loads are under way, sums in registers and writes the row once. The
slots b and (for filters by edge) w open in the same pass; w of a table is in ``table.py``.
"""

import triton.language as tl
from torch import Tensor

from pyg_schnet.ops.backends import reference
from pyg_schnet.ops.backends.cuda.launch import launch, power_of_two, tiles, varying
from pyg_schnet.ops.backends.cuda.table import open_table
from pyg_schnet.ops.backends.reference import OPEN_B, OPEN_W, OPEN_X, OPEN_Y

# Bytes of a tile for each of the 32 threads of the one warp that a program has: enough loads in
# flight, and few enough registers that many programs share a multiprocessor. To open b takes twice
# as many registers.
_PER_THREAD = 64
_WIDEST = 128  # features of a tile


@varying("edges", pointers=("ptr", "order", "others", "knot"))
def _table_rows(  # type: ignore[no-untyped-def]
    ptr,
    order,
    others,
    own,
    other,
    b,
    knot,
    w,
    out,
    out_b,
    edges,
    FEATURES: tl.constexpr,
    EDGES: tl.constexpr,
    TILE: tl.constexpr,
):
    """Filters from six rows of a table. ``out`` or ``out_b`` (tiles, E, 6) is None if not open."""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1).to(tl.int64)
    f = tile * TILE + tl.arange(0, TILE)
    inside = f < FEATURES
    first = tl.load(ptr + row)
    last = tl.load(ptr + row + 1)
    if out_b is not None:
        mine = tl.load(own + row * FEATURES + f, mask=inside, other=0.0)[None, :]
    total = tl.zeros([EDGES, TILE], dtype=b.dtype.element_ty)
    for block in range(first, last, EDGES):
        place = block + tl.arange(0, EDGES)
        valid = place < last
        mask = valid[:, None] & inside[None, :]
        e = tl.load(order + place, mask=valid, other=0)
        node = tl.load(others + e, mask=valid, other=0)
        k = tl.load(knot + e, mask=valid, other=0).to(tl.int64)
        if out is not None:
            b0 = tl.load(b + 6 * e, mask=valid, other=0.0)
            b1 = tl.load(b + 6 * e + 1, mask=valid, other=0.0)
            b2 = tl.load(b + 6 * e + 2, mask=valid, other=0.0)
            b3 = tl.load(b + 6 * e + 3, mask=valid, other=0.0)
            b4 = tl.load(b + 6 * e + 4, mask=valid, other=0.0)
            b5 = tl.load(b + 6 * e + 5, mask=valid, other=0.0)
        rows = w + k[:, None] * FEATURES + f[None, :]
        theirs = tl.load(other + node[:, None] * FEATURES + f[None, :], mask=mask, other=0.0)
        w0 = tl.load(rows, mask=mask, other=0.0)
        w1 = tl.load(rows + FEATURES, mask=mask, other=0.0)
        w2 = tl.load(rows + 2 * FEATURES, mask=mask, other=0.0)
        w3 = tl.load(rows + 3 * FEATURES, mask=mask, other=0.0)
        w4 = tl.load(rows + 4 * FEATURES, mask=mask, other=0.0)
        w5 = tl.load(rows + 5 * FEATURES, mask=mask, other=0.0)
        if out is not None:
            low = b0[:, None] * w0 + b1[:, None] * w1 + b2[:, None] * w2
            high = b3[:, None] * w3 + b4[:, None] * w4 + b5[:, None] * w5
            total += (low + high) * theirs
        if out_b is not None:
            product = theirs * mine
            made = out_b + (tile * edges + e) * 6
            tl.store(made, tl.sum(product * w0, 1), mask=valid)
            tl.store(made + 1, tl.sum(product * w1, 1), mask=valid)
            tl.store(made + 2, tl.sum(product * w2, 1), mask=valid)
            tl.store(made + 3, tl.sum(product * w3, 1), mask=valid)
            tl.store(made + 4, tl.sum(product * w4, 1), mask=valid)
            tl.store(made + 5, tl.sum(product * w5, 1), mask=valid)
    if out is not None:
        tl.store(out + row * FEATURES + f, tl.sum(total, 0), mask=inside)


@varying("edges", pointers=("ptr", "order", "others", "knot"))
def _given_rows(  # type: ignore[no-untyped-def]
    ptr,
    order,
    others,
    own,
    other,
    b,
    w,
    out,
    out_b,
    out_w,
    edges,
    FEATURES: tl.constexpr,
    EDGES: tl.constexpr,
    TILE: tl.constexpr,
):
    """One row of filters for each edge. ``out``, ``out_b`` (tiles, E) or ``out_w`` may be None."""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1).to(tl.int64)
    f = tile * TILE + tl.arange(0, TILE)
    inside = f < FEATURES
    first = tl.load(ptr + row)
    last = tl.load(ptr + row + 1)
    if (out_b is not None) or (out_w is not None):
        mine = tl.load(own + row * FEATURES + f, mask=inside, other=0.0)[None, :]
    total = tl.zeros([EDGES, TILE], dtype=b.dtype.element_ty)
    for block in range(first, last, EDGES):
        place = block + tl.arange(0, EDGES)
        valid = place < last
        mask = valid[:, None] & inside[None, :]
        e = tl.load(order + place, mask=valid, other=0)
        node = tl.load(others + e, mask=valid, other=0)
        at = e[:, None] * FEATURES + f[None, :]
        theirs = tl.load(other + node[:, None] * FEATURES + f[None, :], mask=mask, other=0.0)
        if (out is not None) or (out_w is not None):
            weight = tl.load(b + e, mask=valid, other=0.0)[:, None]
        if (out is not None) or (out_b is not None):
            filters = tl.load(w + at, mask=mask, other=0.0)
        if out is not None:
            total += weight * filters * theirs
        if out_b is not None:
            tl.store(out_b + tile * edges + e, tl.sum(theirs * mine * filters, 1), mask=valid)
        if out_w is not None:
            tl.store(out_w + at, weight * (theirs * mine), mask=mask)
    if out is not None:
        tl.store(out + row * FEATURES + f, tl.sum(total, 0), mask=inside)


def form(
    b: Tensor,
    x: Tensor,
    y: Tensor,
    w: Tensor,
    knot: Tensor,
    edge_index: Tensor,
    in_ptr: Tensor,
    in_order: Tensor,
    out_ptr: Tensor,
    out_order: Tensor,
    blocks: Tensor,
    num_knots: int,
    opened: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`pyg_schnet.ops.backends.reference.form`, which does undirected graphs."""
    graph = (edge_index, in_ptr, in_order, out_ptr, out_order, blocks)
    if blocks.numel():
        return reference.form(b, x, y, w, knot, *graph, num_knots, opened)
    b, x, y, w = b.contiguous(), x.contiguous(), y.contiguous(), w.contiguous()
    edge_index, knot = edge_index.contiguous(), knot.contiguous()
    features = w.size(1)
    sources, targets, edges = out_ptr.numel() - 1, in_ptr.numel() - 1, edge_index.size(1)
    tabulated = num_knots > 0
    tile = min(power_of_two(features), _WIDEST)
    columns = tiles(features, tile)

    none = b.new_empty(0)
    out_x = b.new_empty(sources, features) if opened & OPEN_X else none
    out_y = b.new_empty(targets, features) if opened & OPEN_Y else none
    # Each tile of features writes its part of b.
    out_b = b.new_empty(columns, *b.shape) if opened & OPEN_B else none
    out_w = none
    if opened & OPEN_W and tabulated:
        out_w = open_table(b, x, y, knot, edge_index, num_knots)
    elif opened & OPEN_W:
        out_w = b.new_empty(edges, features)
    side = opened & (OPEN_B if tabulated else OPEN_B | OPEN_W)
    for slot in (OPEN_X, OPEN_Y):
        # b and w open beside x if that is open too, else in the pass over targets.
        here = side if slot == OPEN_X or not opened & OPEN_X else 0
        if not (opened & slot or (here and slot == OPEN_Y)):
            continue
        by_source = slot == OPEN_X
        ptr, order = (out_ptr, out_order) if by_source else (in_ptr, in_order)
        own, other, out = (x, y, out_x) if by_source else (y, x, out_y)
        others = edge_index[1] if by_source else edge_index[0]
        made = out if opened & slot else None
        made_b = out_b if here & OPEN_B else None
        numbers = 32 * (_PER_THREAD // 2 if made_b is not None else _PER_THREAD) // b.element_size()
        grid, sides = (ptr.numel() - 1, columns), (features, max(numbers // tile, 2), tile)
        nodes = (ptr, order, others, own, other, b)
        if tabulated:
            rest = (knot, w, made, made_b, edges, *sides)
            launch(_table_rows, grid, b, *nodes, *rest, num_warps=1)
        else:
            made_w = out_w if here & OPEN_W else None
            launch(
                _given_rows, grid, b, *nodes, w, made, made_b, made_w, edges, *sides, num_warps=1
            )
    if opened & OPEN_B:
        out_b = out_b[0] if columns == 1 else out_b.sum(0)
    return out_b, out_x, out_y, out_w
