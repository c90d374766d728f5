"""What SchNet and DTNN have in common: their edges, and contributions of atoms."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyg_schnet.graph import neighbor_edges
from pyg_schnet.graph.vectors import shift_vectors
from pyg_schnet.nn.fading import FractionalAtoms
from pyg_schnet.nn.head import Head
from pyg_schnet.ops import Graph, edge_difference

InteractionGraph = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class AtomisticModel(nn.Module, ABC):
    """A model that refines features of atoms along edges, and reads a property out of each atom.

    A subclass sets these attributes and writes :meth:`features`.
    """

    embedding: nn.Embedding
    readout: Head
    cutoff: float
    """Å."""
    cutoff_fn: str
    """"none" lets all atoms of a molecule interact."""
    max_num_neighbors: int | None
    backend: str
    interaction_graph: InteractionGraph | None
    """Edges and their lengths from positions and batch, in place of the built-in search."""

    @abstractmethod
    def features(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        edge_index: Tensor | None = None,
        cell: Tensor | None = None,
        cell_shift: Tensor | None = None,
        pbc: Tensor | None = None,
        *,
        fractional: FractionalAtoms | None = None,
    ) -> Tensor:
        """Features of the atoms after the last interaction, (N, hidden_channels)."""

    def _graph(
        self,
        pos: Tensor,
        batch: Tensor,
        edge_index: Tensor | None,
        cell: Tensor | None,
        cell_shift: Tensor | None,
        pbc: Tensor | None,
        undirected: bool = False,
    ) -> tuple[Graph, Tensor]:
        """The sorted edges and their lengths (E,), Å."""
        given = None
        if edge_index is None and self.interaction_graph is not None:
            edge_index, given = self.interaction_graph(pos, batch)
        elif edge_index is None:
            edge_index, cell_shift = self._search(pos, batch, cell, pbc)
        graph = Graph.of(
            edge_index,
            pos.size(0),
            dtype=pos.dtype,
            backend=self.backend,
            undirected=undirected and given is None,
        )
        if given is not None:
            return graph, given
        vectors = edge_difference(pos, graph)  # [E, 3]
        if cell is not None:
            vectors = vectors + shift_vectors(edge_index, cell, cell_shift, batch, pos.dtype)
        return graph, torch.linalg.vector_norm(vectors, dim=-1)

    def _search(
        self, pos: Tensor, batch: Tensor, cell: Tensor | None, pbc: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Edges (2, E) by the built-in search, and their shifts."""
        if torch.compiler.is_compiling():
            raise ValueError(
                "Under torch.compile edge_index must be given, got None; find the edges with "
                "pyg_schnet.graph.neighbor_edges outside."
            )
        all_pairs = self.cutoff_fn == "none" and cell is None
        return neighbor_edges(
            pos,
            None if all_pairs else self.cutoff,
            batch=batch,
            cell=cell,
            pbc=pbc,
            max_num_neighbors=self.max_num_neighbors,
        )

    def edges(
        self,
        pos: Tensor,
        batch: Tensor,
        edge_index: Tensor | None = None,
        cell: Tensor | None = None,
        cell_shift: Tensor | None = None,
        pbc: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The edges (2, E) and their lengths (E,), Å; found where they are not given."""
        graph, distance = self._graph(pos, batch, edge_index, cell, cell_shift, pbc)
        return graph.edge_index, distance

    def atomwise(
        self,
        z: Tensor,
        pos: Tensor,
        batch: Tensor | None = None,
        edge_index: Tensor | None = None,
        cell: Tensor | None = None,
        cell_shift: Tensor | None = None,
        pbc: Tensor | None = None,
        *,
        fractional: FractionalAtoms | None = None,
    ) -> Tensor:
        """Contributions of the atoms, (N, 1): energies, or what the head makes of features.

        Arguments as :meth:`forward`. Sums (or means) of them are its result where the head is
        atomwise; of others see ``contributions`` there, such as the charges of a dipole.

        Raises:
            ValueError: If the head has none.
        """
        rest = (edge_index, cell, cell_shift, pbc)
        x = self.features(z, pos, batch, *rest, fractional=fractional)
        if fractional is None:
            return self.readout.contributions(x, z.long()).to(x.dtype)
        return fractional.contributions(self.readout, x, z.long()).to(x.dtype)
