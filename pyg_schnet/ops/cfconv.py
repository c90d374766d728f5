r"""The continuous-filter convolution as one multilinear form with open slots.

.. math::
    S(b, x, y, w) = \sum_e \sum_m b_{em} \sum_f x_{s(e) f}\; y_{t(e) f}\; w_{k(e)+m,\,f}

Leave out one factor and sum over the rest, and what remains is an operator: with y left open the
convolution, with b the gradient of the distances, with w that of the filters. The form is linear in
each factor, so the gradient of any open slot is the same form with another slot open and one factor
replaced: one operator is closed under differentiation to any order.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.backends import choose_backend, kernel
from pyg_schnet.ops.library import Operator

OPEN_B, OPEN_X, OPEN_Y, OPEN_W = 1, 2, 4, 8
_FEW_EDGES = 2**11
_SLOTS = (OPEN_B, OPEN_X, OPEN_Y, OPEN_W)


def _form_fake(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, _, _, w, _, _, in_ptr, _, out_ptr, _, _, num_knots, opened, _ = inputs
    none, features = b.new_empty(0), w.size(1)
    return (
        torch.empty_like(b) if opened & OPEN_B else none,
        b.new_empty(out_ptr.size(0) - 1, features) if opened & OPEN_X else b.new_empty(0),
        b.new_empty(in_ptr.size(0) - 1, features) if opened & OPEN_Y else b.new_empty(0),
        b.new_empty(num_knots or b.size(0), features) if opened & OPEN_W else b.new_empty(0),
    )


def _form_backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    factors, rest = ctx.inputs[:4], ctx.inputs[4:-2]
    opened, backend = ctx.inputs[-2:]
    needed = sum(slot for slot, need in zip(_SLOTS, ctx.needed, strict=True) if need)
    made: list[Tensor | None] = [None] * 4
    for place, (slot, gradient) in enumerate(zip(_SLOTS, gradients, strict=True)):
        still_open = needed & ~slot
        if not opened & slot or gradient is None or not still_open:
            continue
        replaced = (*factors[:place], gradient, *factors[place + 1 :])
        for other, value in enumerate(_FORM(*replaced, *rest, still_open, backend)):
            if still_open & _SLOTS[other]:
                before = made[other]
                made[other] = value if before is None else before + value
    return tuple(made)


_FORM = Operator(
    "form(Tensor b, Tensor x, Tensor y, Tensor w, Tensor knot, Tensor edge_index, Tensor in_ptr, "
    "Tensor in_order, Tensor out_ptr, Tensor out_order, Tensor blocks, int num_knots, int opened, "
    "str backend) -> (Tensor, Tensor, Tensor, Tensor)",
    _form_fake,
    _form_backward,
    4,
)
_CSR = Operator(
    "csr(Tensor index, SymInt rows, str backend) -> (Tensor, Tensor)",
    lambda index, rows, backend: (index.new_empty(rows + 1), torch.empty_like(index)),
)


@dataclass(frozen=True)
class Graph:
    """Edges, and where those of each node lie.

    Attributes:
        edge_index: (2, E): row 0 source j, row 1 target i.
        in_ptr: (targets + 1,) first place in ``in_order`` of the edges into each target.
        in_order: (E,) edges by target.
        out_ptr: (sources + 1,) first place in ``out_order`` of the edges out of each source.
        out_order: (E,) edges by source.
        blocks: First nodes of blocks that no edge leaves, where each edge stands for both of its
            directions; else empty.
        backend: Who computes on it.

    Example:
        >>> graph = Graph.of(torch.tensor([[1, 0, 2], [0, 1, 1]]), 3)
        >>> graph.in_ptr.tolist(), graph.in_order.tolist(), graph.is_undirected
        ([0, 1, 3, 3], [0, 1, 2], False)
    """

    edge_index: Tensor
    in_ptr: Tensor
    in_order: Tensor
    out_ptr: Tensor
    out_order: Tensor
    blocks: Tensor
    backend: str

    @classmethod
    def of(
        cls,
        edge_index: Tensor,
        num_sources: int,
        num_targets: int | None = None,
        dtype: torch.dtype = torch.float32,
        backend: str = "auto",
        undirected: bool = False,
    ) -> "Graph":
        """Sort the edges both ways.

        Args:
            edge_index: (2, E) integers, in any order.
            num_sources: Nodes that edges come from.
            num_targets: Nodes that edges go to; None for the same nodes.
            dtype: Of the features to come; see :func:`~pyg_schnet.ops.choose_backend`.
            backend: Likewise.
            undirected: Keep one edge for the two directions of a pair where that is possible and
                pays, so that whatever belongs to an edge is computed once: sorted edges, each with
                its reverse, within several small components. Filters must be the same both ways.

        Raises:
            IndexError: If an edge names a node that is not there; on CUDA, where looking would stop
                the device, an assertion on the device instead.

        Example:
            >>> graph = Graph.of(torch.tensor([[1, 0, 2], [0, 1, 1]]), 3)
            >>> graph.in_ptr
            tensor([0, 1, 3, 3])
        """
        name = choose_backend(edge_index.device, dtype, backend)
        if type(edge_index) is not Tensor and hasattr(edge_index, "as_tensor"):
            edge_index = edge_index.as_tensor()  # PyG's EdgeIndex has no memory of its own
        edge_index = edge_index.long()
        targets = num_sources if num_targets is None else num_targets
        if undirected and name == "cpu" and not torch.compiler.is_compiling():
            found = kernel("cpu", "pairs")(edge_index, num_sources)
            # One block has no work for a second thread.
            if found and (found[-1].numel() > 2 or edge_index.size(1) < _FEW_EDGES):
                pairs, in_ptr, in_order, out_ptr, out_order, blocks = found
                return cls(pairs, in_ptr, in_order, out_ptr, out_order, blocks, name)
        in_ptr, in_order = _CSR(edge_index[1], targets, name)
        out_ptr, out_order = _CSR(edge_index[0], num_sources, name)
        return cls(edge_index, in_ptr, in_order, out_ptr, out_order, edge_index.new_empty(0), name)

    @property
    def is_undirected(self) -> bool:
        """Whether each edge stands for both of its directions."""
        return self.blocks.numel() > 0

    @property
    def order(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Pointers and orders, by target and by source."""
        return self.in_ptr, self.in_order, self.out_ptr, self.out_order

    @property
    def num_neighbors(self) -> Tensor:
        """Edges into each target, (targets,)."""
        counts = self.in_ptr.diff()
        return counts + self.out_ptr.diff() if self.is_undirected else counts


def cfconv(x: Tensor, w: Tensor, b: Tensor, graph: Graph, knot: Tensor | None = None) -> Tensor:
    r"""Sum over neighbours of features times filters.

    .. math::
        y_i = \sum_{e:\,t(e)=i} x_{s(e)} \odot \sum_m b_{em}\, w_{k(e)+m}

    Schütt et al., NeurIPS 2017, section 3. Differentiable in x, w and b, to any order.

    Args:
        x: Features of the sources, (N, F).
        w: Filters: one row for each edge (E, F), or with ``knot`` a table (K, F).
        b: Weights: (E,) or (E, 1) for filters by edge, such as a cutoff function; (E, 6) for a
            table, from :func:`~pyg_schnet.ops.spline_weights`.
        graph: The edges.
        knot: (E,) int32, first of the six table rows of each edge.

    Returns:
        (targets, F).

    Raises:
        ValueError: If shapes do not fit together.

    Example:
        >>> graph = Graph.of(torch.tensor([[1, 0], [0, 1]]), 2)
        >>> cfconv(torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]]), torch.ones(2), graph)
        tensor([[6.],
                [5.]])
    """
    edges = graph.edge_index.size(1)
    b = b.view(-1, 1) if b.dim() == 1 else b
    width = 1 if knot is None else 6
    rows = edges if knot is None else w.size(0)
    if b.shape != (edges, width) or w.shape != (rows, x.size(1)):
        raise ValueError(
            f"cfconv on {edges} edges needs b of shape ({edges}, {width}) and w of ({rows}, "
            f"{x.size(1)}), one column for each feature of x, got {tuple(b.shape)} and "
            f"{tuple(w.shape)}."
        )
    if x.size(0) != graph.out_ptr.size(0) - 1:
        raise ValueError(
            f"The graph has {graph.out_ptr.size(0) - 1} sources, but x has {x.size(0)} rows."
        )
    if knot is not None and (knot.shape != (edges,) or knot.dtype != torch.int32):
        raise ValueError(
            f"knot must be int32 of shape ({edges},), one number for each edge, got {knot.dtype} "
            f"of shape {tuple(knot.shape)}."
        )
    backend = graph.backend
    if not x.dtype == w.dtype == b.dtype:  # under autocast
        dtype = torch.promote_types(torch.promote_types(x.dtype, w.dtype), b.dtype)
        x, w, b = x.to(dtype), w.to(dtype), b.to(dtype)
    if x.dtype not in (torch.float32, torch.float64):
        backend = "reference"
    num_knots = 0 if knot is None else rows
    if knot is None:
        knot = graph.edge_index.new_empty(0, dtype=torch.int32)
    slots = (b, x, x.new_empty(0, x.size(1)), w, knot, graph.edge_index)
    return _FORM(*slots, *graph.order, graph.blocks, num_knots, OPEN_Y, backend)[2]
