"""Products of matrices by oneDNN."""

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b.T`` in float32."""
    return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
