"""The dense layer."""

from torch import Tensor, nn

from pyg_schnet.ops.dense import dense


class Dense(nn.Linear):
    r"""A dense layer without activation: ``torch.nn.Linear`` with a faster product on some CPUs.

    .. math::
        y = x\,W^\top + b

    Example:
        >>> import torch
        >>> Dense(8, 16)(torch.rand(3, 8)).shape
        torch.Size([3, 16])
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply to (..., in_features)."""
        return dense(input, self.weight, self.bias)
