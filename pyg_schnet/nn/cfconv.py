"""The continuous-filter convolution."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing

from pyg_schnet.nn.cutoff import NoCutoff, cutoff_function
from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.tabulated import EdgeFilters
from pyg_schnet.ops import Graph, cfconv

_HOOKS = tuple(
    f"_{method}_forward_{kind}hooks"
    for method in ("propagate", "message", "aggregate", "message_and_aggregate", "edge_update")
    for kind in ("pre_", "")
)


class CFConv(MessagePassing):
    r"""Continuous-filter convolution: sums neighbours, each weighted by a filter of its distance.

    .. math::
        y_i = V \left( \frac{1}{n_i} \sum_{j \in N(i)} (U x_j) \odot W(d_{ij})\, f(d_{ij}) \right)
            + v

    =====================  ==================  ====================================================
    :math:`x_j`            ``x``               features of the neighbour, (N, in_channels)
    :math:`U`              ``lin1``            dense without bias, to ``num_filters``
    :math:`W`              ``nn``              any module from ``edge_attr`` to (E, num_filters)
    :math:`f`              ``cutoff_fn``       zero at and beyond ``cutoff``
    :math:`V, v`           ``lin2``            dense, to ``out_channels``
    :math:`n_i`            ``normalize``       1, or the number of edges into i ("neighbors")
    =====================  ==================  ====================================================

    Schütt et al., NeurIPS 2017, section 3 and figure 2; J. Chem. Phys. 148, 241722 (2018); the
    cutoff function is that of the chapter of 2020. Nothing in it knows chemistry:
    points of any kind, bipartite graphs and filters of any edge feature work.

    The sum runs as one fused operator (:func:`pyg_schnet.ops.cfconv`) that stores no message. A
    subclass that overrides ``message``, ``aggregate`` or ``update``, a hook on them, or an
    explainer gets PyG's own way through them, with the same numbers.

    Args:
        in_channels: Features of a source node.
        out_channels: Features made for a target node.
        num_filters: Features while convolving, F.
        nn: Filter-generating network from ``edge_attr`` to (E, ``num_filters``).
        cutoff: Å (or the unit of ``edge_weight``). None switches the cutoff function off.
        cutoff_fn: "cosine", "hard", "none", or a module from distances to weights.
        normalize: None or "neighbors".
        backend: Who computes; see :func:`pyg_schnet.ops.choose_backend`.

    Raises:
        ValueError: If ``cutoff_fn`` or ``normalize`` is unknown, or ``cutoff`` not positive.

    Example:
        >>> from pyg_schnet.nn import FilterNetwork, GaussianSmearing
        >>> basis = GaussianSmearing(0.0, 5.0, 20)
        >>> conv = CFConv(8, 16, num_filters=32, nn=FilterNetwork(20, 32), cutoff=5.0)
        >>> x, edge_index = torch.rand(3, 8), torch.tensor([[0, 1, 2, 1], [1, 0, 1, 2]])
        >>> d = torch.tensor([1.0, 1.0, 1.5, 1.5])
        >>> conv(x, edge_index, d, basis(d)).shape
        torch.Size([3, 16])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_filters: int,
        nn: nn.Module,
        cutoff: float | None,
        *,
        cutoff_fn: str | nn.Module = "cosine",
        normalize: str | None = None,
        backend: str = "auto",
    ) -> None:
        if normalize not in (None, "neighbors"):
            raise ValueError(f"normalize must be None or 'neighbors', got {normalize!r}.")
        super().__init__(aggr="add" if normalize is None else "mean")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_filters = num_filters
        self.normalize = normalize
        self.backend = backend
        # PyG would hand sparse matrices to message_and_aggregate; the choice is made in forward.
        self.fuse = False
        self.lin1 = Dense(in_channels, num_filters, bias=False)
        self.lin2 = Dense(num_filters, out_channels)
        self.nn = nn
        self.cutoff = cutoff
        if not isinstance(cutoff_fn, str):
            self.cutoff_fn: torch.nn.Module = cutoff_fn
        else:
            self.cutoff_fn = NoCutoff() if cutoff is None else cutoff_function(cutoff_fn, cutoff)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform dense layers; the filter network keeps its own."""
        torch.nn.init.xavier_uniform_(self.lin1.weight)
        torch.nn.init.xavier_uniform_(self.lin2.weight)
        torch.nn.init.zeros_(self.lin2.bias)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor | None],
        edge_index: Tensor | Graph,
        edge_weight: Tensor,
        edge_attr: Tensor | EdgeFilters,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Convolve; arguments as :meth:`convolve`.

        Returns:
            (N, out_channels), one row per target.

        Raises:
            ValueError: If the filter network does not give (E, num_filters).
        """
        return self.lin2(self.convolve(x, edge_index, edge_weight, edge_attr, size))

    def convolve(
        self,
        x: Tensor | tuple[Tensor, Tensor | None],
        edge_index: Tensor | Graph,
        edge_weight: Tensor,
        edge_attr: Tensor | EdgeFilters,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """The sum over neighbours, before the last dense layer.

        Args:
            x: Node features (N, in_channels); or for a bipartite graph the pair (features of the
                sources, features of the targets or None), of which only the first is read.
            edge_index: (2, E) integers: row 0 source j, row 1 target i; or a
                :class:`~pyg_schnet.ops.Graph`, sorted once for several layers. Of an undirected
                one, ``edge_weight`` and ``edge_attr`` belong to pairs. A sparse matrix (targets,
                sources), as PyG takes it, also works, by way of single messages.
            edge_weight: Distances (E,), the argument of the cutoff function.
            edge_attr: (E, G), the argument of the filter network, usually Gaussians of distances;
                or filters read off a table, with cutoff and normalisation.
            size: (number of sources, number of targets); needed for a bipartite graph whose
                targets have no features, if its last targets have no edge.

        Returns:
            (N, num_filters), one row per target.

        Raises:
            ValueError: If the filter network does not give (E, num_filters).
        """
        indices = edge_index.edge_index if isinstance(edge_index, Graph) else edge_index
        is_matrix = indices.layout != torch.strided
        if isinstance(x, tuple) and size is None and not is_matrix:
            size = self._bipartite_size(x, indices)
        h = self.lin1(x[0] if isinstance(x, tuple) else x)  # [N, F]
        if self.is_fused() and not is_matrix:
            graph = edge_index
            if not isinstance(graph, Graph):
                targets = None if size is None else size[1]
                graph = Graph.of(indices, h.size(0), targets, h.dtype, self.backend)
            if not isinstance(edge_attr, EdgeFilters):
                scale = self.cutoff_fn(edge_weight)
                edge_attr = EdgeFilters(self._network(edge_weight, edge_attr), scale)
            return self.message_and_aggregate(graph, h, edge_attr)
        if not isinstance(edge_attr, EdgeFilters):
            w = self.filter(edge_weight, edge_attr)  # [E, F]
        else:
            w = edge_attr.values()
        if isinstance(edge_index, Graph) and edge_index.is_undirected:
            indices, w = torch.cat([indices, indices.flip(0)], 1), torch.cat([w, w])
        pair = (h, None) if isinstance(x, tuple) else h
        return self.propagate(indices, x=pair, w=w, size=size)

    def message_and_aggregate(self, edge_index: Graph, x: Tensor, filters: EdgeFilters) -> Tensor:
        """The sum (or mean) over neighbours in one operator, (targets, num_filters).

        Args:
            edge_index: The sorted edges.
            x: Features after ``lin1``, (N, num_filters).
            filters: Of each edge.
        """
        out = cfconv(x, filters.rows, filters.weights, edge_index, filters.knot)
        if self.normalize is None:
            return out
        return out / edge_index.num_neighbors.clamp(min=1).to(out.dtype).view(-1, 1)

    def is_fused(self) -> bool:
        """Whether nobody looks at or changes the single messages."""
        kind = type(self)
        return (
            kind.message is CFConv.message
            and kind.filter is CFConv.filter
            and kind.aggregate is MessagePassing.aggregate
            and kind.update is MessagePassing.update
            and not self.explain
            and self.decomposed_layers == 1
            and not any(getattr(self, name) for name in _HOOKS)
        )

    def filter(self, edge_weight: Tensor, edge_attr: Tensor) -> Tensor:
        """The filter of each edge with its cutoff: W(d) f(d), (E, num_filters).

        Raises:
            ValueError: If the filter network does not give (E, num_filters).
        """
        w = self._network(edge_weight, edge_attr)
        if isinstance(self.cutoff_fn, NoCutoff):
            return w
        return w * self.cutoff_fn(edge_weight).view(-1, 1)

    def _network(self, edge_weight: Tensor, edge_attr: Tensor) -> Tensor:
        w = self.nn(edge_attr)
        if w.shape != (edge_weight.numel(), self.num_filters):
            raise ValueError(
                f"The filter network must give one row of num_filters={self.num_filters} per edge, "
                f"({edge_weight.numel()}, {self.num_filters}), but gave {tuple(w.shape)}."
            )
        return w

    def message(self, x_j: Tensor, w: Tensor) -> Tensor:
        """One neighbour's contribution, filter times features, (E, num_filters)."""
        return x_j * w

    @staticmethod
    def _bipartite_size(x: tuple[Tensor, Tensor | None], edge_index: Tensor) -> tuple[int, int]:
        source, target = x
        if target is not None:
            return source.size(0), target.size(0)
        num_targets = int(edge_index[1].max()) + 1 if edge_index.numel() else 0
        return source.size(0), num_targets

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.in_channels}, {self.out_channels}, "
            f"num_filters={self.num_filters}, cutoff={self.cutoff})"
        )
