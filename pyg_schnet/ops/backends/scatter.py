"""The form by torch_scatter's segment reductions; all else by the reference."""

from torch import Tensor
from torch_scatter import segment_csr

from pyg_schnet.ops.backends import reference
from pyg_schnet.ops.backends.reference import OPEN_X, OPEN_Y, edge_filters


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
    """As :func:`pyg_schnet.ops.backends.reference.form`, without atomics in the sums by node."""
    order = (in_ptr, in_order, out_ptr, out_order)
    nodes = opened & (OPEN_X | OPEN_Y)
    if blocks.numel() or not nodes:
        return reference.form(b, x, y, w, knot, edge_index, *order, blocks, num_knots, opened)
    rest = (blocks, num_knots, opened & ~nodes)
    out_b, out_x, out_y, out_w = reference.form(b, x, y, w, knot, edge_index, *order, *rest)
    filters = edge_filters(b, w, knot)  # [E, F]
    source, target = edge_index[0], edge_index[1]
    if opened & OPEN_Y:
        messages = filters * x.index_select(0, source)
        out_y = segment_csr(messages.index_select(0, in_order), in_ptr, reduce="sum")
    if opened & OPEN_X:
        messages = filters * y.index_select(0, target)
        out_x = segment_csr(messages.index_select(0, out_order), out_ptr, reduce="sum")
    return out_b, out_x, out_y, out_w
