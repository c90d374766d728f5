"""PyG transforms that attach edges to a ``Data``.

As ``transform`` they search whenever an example is read. As ``pre_transform`` they search once,
and the edges are stored with the data set: a data set of this package keeps the representation of
the transform, with the cutoff, in the header of its file, and warns where it is asked for another.
PyG's own data sets compare in the same way. The edges in a file are those of its cutoff: a model
with a larger one finds no more.
"""

from __future__ import annotations

from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.transforms import BaseTransform

from pyg_schnet.graph.neighbors import neighbor_edges


class RadiusEdges(BaseTransform):
    """Sets ``edge_index``: atoms closer than ``cutoff``, or all pairs of the molecule.

    Better as ``transform`` than as ``pre_transform``: the search costs less than reading edges.

    Args:
        cutoff: Å, or None for all pairs.
        backend: As in :func:`pyg_schnet.graph.neighbor_edges`.

    Example:
        >>> import torch
        >>> data = Data(pos=torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        >>> RadiusEdges(cutoff=5.0)(data).edge_index.tolist()
        [[1, 0], [0, 1]]
    """

    def __init__(self, cutoff: float | None = 5.0, backend: str = "auto") -> None:
        self.cutoff = cutoff
        self.backend = backend

    def forward(self, data: Data) -> Data:
        """Attach the edges. Needs ``pos`` (N, 3), Å; heeds ``batch`` where there is one."""
        batch = data.batch if "batch" in data else None
        data.edge_index, _ = neighbor_edges(
            _positions(data, self), self.cutoff, batch, backend=self.backend
        )
        return data

    def __repr__(self) -> str:
        """The call that makes this transform."""
        return f"RadiusEdges(cutoff={self.cutoff}, backend={self.backend!r})"


class PeriodicEdges(BaseTransform):
    """Sets ``edge_index`` and ``cell_shift``: images of atoms closer than ``cutoff``.

    Works as ``transform`` and as ``pre_transform``; many structures at once are faster in
    :func:`pyg_schnet.graph.prepare_edges`. Both attributes collate in a PyG ``Batch``: the
    indices count on from graph to graph, the shifts, (E, 3) int32, stand one after another.

    Args:
        cutoff: Å; may exceed the cell.
        backend: As in :func:`pyg_schnet.graph.neighbor_edges`. All find the same edges, so that
            it is no part of the representation, by which stored edges are known.

    Example:
        >>> import torch
        >>> data = Data(pos=torch.zeros(1, 3), cell=2 * torch.eye(3)[None])
        >>> PeriodicEdges(cutoff=2.5)(data).cell_shift.shape
        torch.Size([6, 3])
    """

    def __init__(self, cutoff: float = 5.0, backend: str = "auto") -> None:
        self.cutoff = float(cutoff)
        self.backend = backend

    def forward(self, data: Data) -> Data:
        """Attach the edges.

        Needs ``pos`` (N, 3) and ``cell`` (1, 3, 3), Å; heeds ``pbc`` (1, 3), all true where it
        is missing, and ``batch``.

        Raises:
            ValueError: where ``pos`` or ``cell`` is missing, and as ``neighbor_edges`` does.
        """
        if "cell" not in data:
            raise ValueError(f"{self!r} needs data.cell (1, 3, 3), got {data}; use RadiusEdges")
        data.edge_index, shift = neighbor_edges(
            _positions(data, self),
            self.cutoff,
            data.batch if "batch" in data else None,
            cell=data.cell,
            pbc=data.pbc if "pbc" in data else None,
            backend=self.backend,
        )
        data.cell_shift = shift.int()
        return data

    def __repr__(self) -> str:
        """The call that makes this transform."""
        return f"PeriodicEdges(cutoff={self.cutoff})"


def _positions(data: Data, transform: BaseTransform) -> Tensor:
    if "pos" not in data:
        raise ValueError(f"{transform!r} needs data.pos (N, 3), got {data}")
    return data.pos
