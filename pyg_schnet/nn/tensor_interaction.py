"""The tensor layer of the deep tensor neural network, in factors."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn import MessagePassing

from pyg_schnet.nn.cfconv import _HOOKS
from pyg_schnet.nn.cutoff import NoCutoff, cutoff_function
from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.head import reset_dense
from pyg_schnet.ops import Graph, cfconv

_BLOCK = 2**16  # edges whose factors are held at a time


class TensorInteraction(MessagePassing):
    r"""The interaction of a deep tensor neural network: what the neighbours add to an atom.

    .. math::
        v_i = \sum_{j \in N(i)} \alpha_j\, f(d_{ij})\, \tanh\left(
            W^{xf} \left( (W^{fx} x_j + b^{fx}) \odot (W^{fd} e(d_{ij}) + b^{fd}) \right) \right)

    The caller adds it: :math:`x_i \leftarrow x_i + v_i`. A tensor that couples the features of the
    neighbour with the distance would have hidden × num_gaussians × hidden entries; this is a
    factorisation of low rank.

    ======================  ==================  ===================================================
    :math:`x_j`             ``x``               features of the neighbour, (N, hidden_channels)
    :math:`e(d)`            ``edge_attr``       Gaussians of the distance, (E, num_gaussians)
    :math:`W^{fx}, b^{fx}`  ``lin_atom``        dense, hidden_channels to num_factors
    :math:`W^{fd}, b^{fd}`  ``lin_distance``    dense, num_gaussians to num_factors
    :math:`W^{xf}`          ``lin_out``         dense without bias, to hidden_channels
    :math:`f`               ``cutoff_fn``       1 in the paper, where all pairs interact
    :math:`\alpha`          ``presence``        1 but for atoms that fade
    ======================  ==================  ===================================================

    Schütt et al., Nat. Commun. 8, 13890 (2017), methods; thesis (TU Berlin, 2018), chapter 3. With
    ``activation="linear"`` the last layer can be taken out of the sum, and what remains is a
    continuous-filter convolution with linear filters (thesis, equations 4.11 to 4.13); it then runs
    as the operator of :class:`CFConv`. The hyperbolic tangent is one of each edge: factors of
    65,536 edges at a time are held, and for gradients computed once more.

    Args:
        hidden_channels: Features of an atom.
        num_factors: Rank of the tensor.
        num_gaussians: Size of the radial basis.
        cutoff: Å. None switches the cutoff function off.
        activation: "tanh" or "linear".
        cutoff_fn: "none", "cosine", "hard", or a module from distances to weights.
        backend: Who computes the sum where it is linear; see
            :func:`pyg_schnet.ops.choose_backend`.

    Raises:
        ValueError: If an option is unknown.

    Example:
        >>> from pyg_schnet.nn import GaussianSmearing
        >>> basis = GaussianSmearing(-1.0, 20.0, 106)
        >>> layer = TensorInteraction(30, num_factors=60, num_gaussians=106)
        >>> x, d = torch.rand(2, 30), torch.tensor([1.1, 1.1])
        >>> layer(x, torch.tensor([[0, 1], [1, 0]]), d, basis(d)).shape
        torch.Size([2, 30])
    """

    def __init__(
        self,
        hidden_channels: int,
        num_factors: int = 60,
        num_gaussians: int = 106,
        cutoff: float | None = None,
        *,
        activation: str = "tanh",
        cutoff_fn: str | nn.Module = "none",
        backend: str = "auto",
    ) -> None:
        if activation not in ("tanh", "linear"):
            raise ValueError(f"activation must be 'tanh' or 'linear', got {activation!r}.")
        if cutoff is None and cutoff_fn in ("cosine", "hard"):
            raise ValueError(f"cutoff_fn={cutoff_fn!r} needs a cutoff in Å, got cutoff=None.")
        super().__init__(aggr="add")
        self.hidden_channels = hidden_channels
        self.num_factors = num_factors
        self.num_gaussians = num_gaussians
        self.activation = activation
        self.backend = backend
        # PyG would hand sparse matrices to message_and_aggregate; the choice is made in forward.
        self.fuse = False
        self.lin_atom = Dense(hidden_channels, num_factors)
        self.lin_distance = nn.Linear(num_gaussians, num_factors)
        self.lin_out = Dense(num_factors, hidden_channels, bias=False)
        self.cutoff = cutoff
        if not isinstance(cutoff_fn, str):
            self.cutoff_fn: nn.Module = cutoff_fn
        else:
            self.cutoff_fn = NoCutoff() if cutoff is None else cutoff_function(cutoff_fn, cutoff)
        self.edges_per_block = _BLOCK
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases."""
        reset_dense(self.lin_atom)
        reset_dense(self.lin_distance)
        nn.init.xavier_uniform_(self.lin_out.weight)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor | Graph,
        edge_weight: Tensor,
        edge_attr: Tensor,
        presence: Tensor | None = None,
    ) -> Tensor:
        """What the neighbours add.

        Args:
            x: Features (N, hidden_channels).
            edge_index: (2, E) integers: row 0 source j, row 1 target i; or a
                :class:`~pyg_schnet.ops.Graph`, sorted once for several layers. Of an undirected
                one, ``edge_weight`` and ``edge_attr`` belong to pairs.
            edge_weight: Distances (E,), Å, the argument of the cutoff function.
            edge_attr: (E, num_gaussians), usually Gaussians of the distances.
            presence: (N,) by which the messages of the atoms are multiplied; None for 1.

        Returns:
            (N, hidden_channels).
        """
        return self.interact(x, edge_index, edge_weight, self.lin_distance(edge_attr), presence)

    def interact(
        self,
        x: Tensor,
        edge_index: Tensor | Graph,
        edge_weight: Tensor,
        factors: Tensor,
        presence: Tensor | None = None,
    ) -> Tensor:
        """As :meth:`forward` with the factors of the distances, which several passes can share.

        Args:
            x: Features (N, hidden_channels).
            edge_index: As there.
            edge_weight: Distances (E,), Å.
            factors: ``lin_distance`` of ``edge_attr``, (E, num_factors).
            presence: As there.

        Returns:
            (N, hidden_channels).
        """
        indices = edge_index.edge_index if isinstance(edge_index, Graph) else edge_index
        scale = self.cutoff_fn(edge_weight)  # [E]
        h = self.lin_atom(x)  # [N, num_factors]
        if self.is_fused():
            if self.activation == "linear":
                graph = edge_index
                if not isinstance(graph, Graph):
                    graph = Graph.of(indices, x.size(0), dtype=h.dtype, backend=self.backend)
                if presence is not None:
                    h = h * presence.to(h.dtype).view(-1, 1)
                return self.lin_out(cfconv(h, factors, scale, graph))
            directions = [indices]
            if isinstance(edge_index, Graph) and edge_index.is_undirected:
                directions.append(indices.flip(0))
            out = x.new_zeros(x.shape, dtype=h.dtype)
            for direction in directions:
                out = self._add_messages(out, direction, h, factors, scale, presence)
            return out
        if isinstance(edge_index, Graph) and edge_index.is_undirected:
            indices = torch.cat([indices, indices.flip(0)], 1)
            factors, scale = torch.cat([factors, factors]), torch.cat([scale, scale])
        if presence is not None:
            scale = scale * presence.to(scale.dtype).index_select(0, indices[0])
        return self.propagate(indices, x=h, factors=factors, scale=scale)

    def _add_messages(
        self,
        out: Tensor,
        edge_index: Tensor,
        h: Tensor,
        factors: Tensor,
        scale: Tensor,
        presence: Tensor | None,
    ) -> Tensor:
        """Add the messages to ``out`` (N, hidden_channels), block by block."""
        source, target = edge_index[0], edge_index[1]
        plain = isinstance(self.cutoff_fn, NoCutoff) and presence is None
        if presence is not None:
            scale = scale * presence.to(scale.dtype).index_select(0, source)
        if torch.compiler.is_compiling() or source.numel() <= self.edges_per_block:
            message = self._message(h, factors, None if plain else scale, source)
            return out.index_add(0, target, message)
        for start in range(0, source.numel(), self.edges_per_block):
            of = slice(start, start + self.edges_per_block)
            message = checkpoint(
                self._message,
                h,
                factors[of],
                None if plain else scale[of],
                source[of],
                use_reentrant=False,
                preserve_rng_state=False,
            )
            out = out.index_add(0, target[of], message)
        return out

    def _message(self, h: Tensor, factors: Tensor, scale: Tensor | None, source: Tensor) -> Tensor:
        out = self._couple(h.index_select(0, source), factors)
        return out if scale is None else out * scale.view(-1, 1)

    def _couple(self, x_j: Tensor, factors: Tensor) -> Tensor:
        out = self.lin_out(x_j * factors)
        return torch.tanh(out) if self.activation == "tanh" else out

    def is_fused(self) -> bool:
        """Whether nobody looks at or changes the single messages."""
        kind = type(self)
        return (
            kind.message is TensorInteraction.message
            and kind.aggregate is MessagePassing.aggregate
            and kind.update is MessagePassing.update
            and not self.explain
            and self.decomposed_layers == 1
            and not any(getattr(self, name) for name in _HOOKS)
        )

    def message(self, x_j: Tensor, factors: Tensor, scale: Tensor) -> Tensor:
        """What one neighbour adds, (E, hidden_channels).

        Args:
            x_j: ``lin_atom`` of the features of the neighbour, (E, num_factors).
            factors: Of the distances, (E, num_factors).
            scale: (E,) factor of the message.
        """
        return self._couple(x_j, factors) * scale.view(-1, 1)

    def __repr__(self) -> str:
        return (
            f"{self.__class__.__name__}({self.hidden_channels}, num_factors={self.num_factors}, "
            f"num_gaussians={self.num_gaussians}, activation={self.activation!r})"
        )
