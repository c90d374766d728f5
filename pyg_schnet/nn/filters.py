"""The network that makes filters from distances."""

from torch import nn

from pyg_schnet.nn.activation import ShiftedSoftplus


class FilterNetwork(nn.Sequential):
    r"""Two dense layers from the radial basis to one filter value per feature.

    .. math::
        W(d) = a\left(B\,\mathrm{ssp}(A\,e(d) + a_0) + b_0\right)

    =====================  ==================  ====================================================
    :math:`e(d)`           input               Gaussians of the distance, (E, num_gaussians)
    :math:`A, a_0`         ``self[0]``         dense, to ``num_filters``
    :math:`B, b_0`         ``self[2]``         dense, to ``num_filters``
    :math:`a`              ``activation``      identity ("linear") or ssp ("ssp")
    =====================  ==================  ====================================================

    Schütt et al., NeurIPS 2017, figure 2 (right) and the authors' code end in ssp; SchNetPack and
    PyG end in a linear layer.

    Args:
        num_gaussians: Size of the radial basis, G.
        num_filters: Size of the filter, F.
        activation: After the last layer: "linear" or "ssp".

    Raises:
        ValueError: If ``activation`` is neither.

    Example:
        >>> import torch
        >>> FilterNetwork(50, 64)(torch.rand(7, 50)).shape
        torch.Size([7, 64])
    """

    def __init__(self, num_gaussians: int, num_filters: int, activation: str = "linear") -> None:
        if activation not in ("linear", "ssp"):
            raise ValueError(f"filter_activation must be 'linear' or 'ssp', got {activation!r}.")
        layers: list[nn.Module] = [
            nn.Linear(num_gaussians, num_filters),
            ShiftedSoftplus(),
            nn.Linear(num_filters, num_filters),
        ]
        if activation == "ssp":
            layers.append(ShiftedSoftplus())
        super().__init__(*layers)

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases."""
        for layer in self:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
