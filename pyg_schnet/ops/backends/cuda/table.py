r"""The slot of the table on CUDA: :math:`\sum_e b_{em}\, x_{s(e)} y_{t(e)}` into rows k(e)+m.

Edges are sorted by knot and cut into chunks of equal length, so that all programs have equally many
however the distances are spread. A chunk keeps its products in registers and writes a partial sum
for each row of the table from its first knot to its last plus five. Chunk c has its rows at 6 c +
row: as knots rise with c, no two chunks meet, and the room they need, K + 6 chunks, is known
beforehand. A second kernel adds the partial sums of each row, always in the same order.
"""

import torch
import triton.language as tl
from torch import Tensor

from pyg_schnet.ops.backends.cuda.launch import launch, power_of_two, tiles, varying

_WIDEST = 64  # features of a tile
_PER_THREAD = 256  # bytes of products for each of the 32 threads of a chunk
_CHUNKS = 64  # partial sums added at a time


@varying("edges", pointers=("order", "knot", "sources", "targets"))
def _chunk_sums(  # type: ignore[no-untyped-def]
    order,
    knot,
    sources,
    targets,
    x,
    y,
    b,
    partial,
    edges,
    FEATURES: tl.constexpr,
    EDGES: tl.constexpr,
    TILE: tl.constexpr,
):
    chunk = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = f < FEATURES
    begin = chunk * EDGES
    place = begin + tl.arange(0, EDGES)
    valid = place < edges
    mask = valid[:, None] & inside[None, :]
    e = tl.load(order + place, mask=valid, other=0)
    k = tl.load(knot + place, mask=valid, other=0)
    source = tl.load(sources + e, mask=valid, other=0)
    target = tl.load(targets + e, mask=valid, other=0)
    product = tl.load(x + source[:, None] * FEATURES + f[None, :], mask=mask, other=0.0)
    product *= tl.load(y + target[:, None] * FEATURES + f[None, :], mask=mask, other=0.0)
    first = tl.load(knot + begin).to(tl.int64)
    last = tl.load(knot + tl.minimum(begin + EDGES, edges) - 1)
    made = partial + 6 * chunk * FEATURES + f
    for row in range(first, last + 6):
        m = row - k
        here = valid & (m >= 0) & (m < 6)
        weight = tl.load(b + 6 * e + m, mask=here, other=0.0)
        tl.store(made + row * FEATURES, tl.sum(weight[:, None] * product, 0), mask=inside)


@varying(pointers=("ptr",))
def _row_sums(  # type: ignore[no-untyped-def]
    ptr,
    partial,
    out,
    FEATURES: tl.constexpr,
    EDGES: tl.constexpr,
    CHUNKS: tl.constexpr,
    TILE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = f < FEATURES
    begin = tl.load(ptr + tl.maximum(row - 5, 0))
    end = tl.load(ptr + row + 1)
    total = tl.zeros([CHUNKS, TILE], dtype=out.dtype.element_ty)
    # With no edge that touches the row, end == begin and the range is empty.
    for block in range(begin // EDGES, tl.where(end > begin, (end - 1) // EDGES + 1, 0), CHUNKS):
        chunk = block + tl.arange(0, CHUNKS)
        valid = chunk * EDGES < end
        at = (6 * chunk + row)[:, None] * FEATURES + f[None, :]
        total += tl.load(partial + at, mask=valid[:, None] & inside[None, :], other=0.0)
    tl.store(out + row * FEATURES + f, tl.sum(total, 0), mask=inside)


def open_table(
    b: Tensor, x: Tensor, y: Tensor, knot: Tensor, edge_index: Tensor, num_knots: int
) -> Tensor:
    """The gradient of the table, (K, F); all inputs contiguous."""
    edges, features = edge_index.size(1), x.size(1)
    tile = min(power_of_two(features), _WIDEST)
    block = 32 * _PER_THREAD // b.element_size() // max(tile, 32)
    chunks, columns = tiles(edges, block), tiles(features, tile)
    ordered, order = torch.sort(knot, stable=True)
    rows = torch.arange(num_knots + 1, dtype=knot.dtype, device=knot.device)
    ptr = torch.searchsorted(ordered, rows)  # edges whose knot is smaller than the row
    partial = b.new_empty(num_knots + 6 * chunks, features)
    out = b.new_empty(num_knots, features)
    factors = (edge_index[0], edge_index[1], x, y, b, partial, edges)
    sides = (features, block, tile)
    launch(_chunk_sums, (chunks, columns), b, order, ordered, *factors, *sides, num_warps=1)
    rest = (ptr, partial, out, features, block, _CHUNKS, tile)
    launch(_row_sums, (num_knots, columns), b, *rest, num_warps=4)
    return out
