"""Filters from any module: here polynomials of the distance and the kind of bond."""

import torch
from torch import Tensor, nn

from pyg_schnet.nn import CFConv, InteractionBlock


class BondFilters(nn.Module):
    """One filter per kind of bond, a polynomial of the distance."""

    def __init__(self, num_kinds: int, num_filters: int, degree: int = 3) -> None:
        super().__init__()
        self.degree = degree
        self.coefficients = nn.Parameter(0.1 * torch.randn(num_kinds, degree + 1, num_filters))

    def forward(self, edge_attr: Tensor) -> Tensor:
        """Filters (E, num_filters) from (E, 2): the distance and the kind."""
        d, kind = edge_attr[:, 0], edge_attr[:, 1].long()
        powers = torch.stack([d**k for k in range(self.degree + 1)], dim=1)  # [E, degree + 1]
        return torch.einsum("ek,ekf->ef", powers, self.coefficients[kind])


def main() -> torch.Size:
    """Run a convolution and a block with these filters; return the shape of the result."""
    torch.manual_seed(0)
    x = torch.rand(3, 8)
    edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    d, kind = torch.tensor([1.1, 1.1, 1.4, 1.4]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    edge_attr = torch.stack([d, kind], dim=1)
    conv = CFConv(8, 8, num_filters=16, nn=BondFilters(2, 16), cutoff=None)
    block = InteractionBlock(
        8, num_gaussians=0, num_filters=16, cutoff=5.0, filter_network=BondFilters(2, 16)
    )
    h = conv(x, edge_index, d, edge_attr)
    h = h + block(h, edge_index, d, edge_attr)
    h.sum().backward()
    gradient = block.conv.nn.coefficients.grad
    print(f"{tuple(h.shape)}; gradient of the polynomials {float(gradient.norm()):.3f}")
    return h.shape


if __name__ == "__main__":
    main()
