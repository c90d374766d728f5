"""Interaction blocks: how an atom's features are refined by its neighbours."""

from torch import Tensor, nn

from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.cfconv import CFConv
from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.filters import FilterNetwork
from pyg_schnet.nn.hooks import have_hooks
from pyg_schnet.nn.tabulated import EdgeFilters
from pyg_schnet.ops import Graph, update


class InteractionBlock(nn.Module):
    r"""SchNet's interaction block: what the neighbours add to an atom's features.

    .. math::
        v_i = C\,\mathrm{ssp}\left(\mathrm{cfconv}(x, d)_i\right) + c

    The caller adds it: :math:`x_i \leftarrow x_i + v_i`.

    =====================  ==================  ====================================================
    cfconv                 ``conv``            :class:`CFConv`: dense, convolution, dense
    :math:`C, c`           ``lin``             dense, hidden_channels to hidden_channels
    =====================  ==================  ====================================================

    Schütt et al., NeurIPS 2017, figure 2 (middle).

    Args:
        hidden_channels: Features of an atom.
        num_gaussians: Size of the radial basis.
        num_filters: Features while convolving.
        cutoff: Å. None switches the cutoff function off.
        filter_activation: After the last layer of the filter network: "linear" or "ssp".
        cutoff_fn: "cosine", "hard", "none", or a module from distances to weights.
        normalize: None, or "neighbors" to divide by the number of neighbours.
        filter_network: A filter network of your own instead, from ``edge_attr`` to
            (E, num_filters); also the way in which blocks share one.
        backend: Who computes; see :func:`pyg_schnet.ops.choose_backend`.

    Raises:
        ValueError: If an option is unknown.

    Example:
        >>> import torch
        >>> from pyg_schnet.nn import GaussianSmearing
        >>> block = InteractionBlock(16, num_gaussians=20, num_filters=8, cutoff=5.0)
        >>> x, d = torch.rand(2, 16), torch.tensor([1.1, 1.1])
        >>> edge_index = torch.tensor([[0, 1], [1, 0]])
        >>> (x + block(x, edge_index, d, GaussianSmearing(0.0, 5.0, 20)(d))).shape
        torch.Size([2, 16])
    """

    def __init__(
        self,
        hidden_channels: int,
        num_gaussians: int,
        num_filters: int,
        cutoff: float | None,
        *,
        filter_activation: str = "linear",
        cutoff_fn: str | nn.Module = "cosine",
        normalize: str | None = None,
        filter_network: nn.Module | None = None,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        if filter_network is None:
            filter_network = FilterNetwork(num_gaussians, num_filters, filter_activation)
        self.conv = CFConv(
            hidden_channels,
            hidden_channels,
            num_filters,
            filter_network,
            cutoff,
            cutoff_fn=cutoff_fn,
            normalize=normalize,
            backend=backend,
        )
        self.act = ShiftedSoftplus()
        self.lin = Dense(hidden_channels, hidden_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights and zero biases, in the order in which PyG draws them."""
        if isinstance(self.conv.nn, FilterNetwork):
            self.conv.nn.reset_parameters()
        self.conv.reset_parameters()
        nn.init.xavier_uniform_(self.lin.weight)
        nn.init.zeros_(self.lin.bias)

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor | Graph,
        edge_weight: Tensor,
        edge_attr: Tensor | EdgeFilters,
    ) -> Tensor:
        """The change of ``x`` (N, hidden_channels); edges as in :meth:`CFConv.convolve`."""
        if not self._is_plain():
            return self.lin(self.act(self.conv(x, edge_index, edge_weight, edge_attr)))
        # The same, with the three layers after the sum in one operator.
        y = self.conv.convolve(x, edge_index, edge_weight, edge_attr)  # [N, F]
        inner, outer = self.conv.lin2, self.lin
        return update(y, inner.weight, inner.bias, outer.weight, outer.bias)

    def _is_plain(self) -> bool:
        """Whether the layers after the sum are the package's own and nobody looks at them."""
        conv, act = self.conv, self.act
        layers = (conv, conv.lin2, act, self.lin)
        return (
            type(conv).forward is CFConv.forward
            and type(conv.lin2) is Dense
            and type(self.lin) is Dense
            and type(act) is ShiftedSoftplus
            and not have_hooks(layers)
        )
