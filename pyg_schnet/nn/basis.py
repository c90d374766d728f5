"""The radial basis in which filters see a distance."""

import math
from typing import Self

import torch
from torch import Tensor

from pyg_schnet.nn.precision import Float64Buffers

_LEAST_EXPONENT = -87.0  # e to this is 1.6e-38, just above the smallest normal float32


class GaussianSmearing(Float64Buffers):
    r"""Expands distances in Gaussians on a uniform grid.

    .. math::
        e_k(d) = \exp\left(-\gamma\,(d - \mu_k)^2\right), \qquad
        \mu_k = \mathrm{start} + k\,\Delta\mu, \quad k = 0 \dots G-1

    =====================  ==================  ====================================================
    :math:`\mu_k`          ``offset``          centres, Å, from ``start`` to ``stop`` inclusive
    :math:`\gamma`         ``gamma``           1/Å²; by default :math:`1 / (2 \Delta\mu^2)`, as PyG
    :math:`G`              ``num_gaussians``   number of centres
    =====================  ==================  ====================================================

    Schütt et al., NeurIPS 2017, section 4.1: centres every 0.1 Å with gamma = 10 1/Å², which
    :meth:`from_spacing` gives.

    Args:
        start: First centre, Å.
        stop: Last centre, Å.
        num_gaussians: Number of centres, at least 2.
        gamma: 1/Å². None takes :math:`1/(2\Delta\mu^2)`.

    Raises:
        ValueError: If the grid has fewer than two points, no extent, or ``gamma`` is not positive.

    Example:
        >>> basis = GaussianSmearing(0.0, 5.0, num_gaussians=6)
        >>> basis(torch.tensor([0.0, 1.0])).shape
        torch.Size([2, 6])
    """

    float64_buffers = ("offset", "gamma")
    offset: Tensor
    gamma: Tensor

    def __init__(
        self,
        start: float = 0.0,
        stop: float = 5.0,
        num_gaussians: int = 50,
        gamma: float | None = None,
    ) -> None:
        super().__init__()
        if num_gaussians < 2:
            raise ValueError(
                f"num_gaussians must be at least 2 to span a grid, got {num_gaussians}."
            )
        if not (math.isfinite(start) and math.isfinite(stop) and stop > start):
            raise ValueError(
                f"The Gaussian grid needs finite start < stop, got start={start}, stop={stop}."
            )
        if gamma is not None and not gamma > 0:
            raise ValueError(f"gamma must be positive (1/Å²), got {gamma}.")
        offset = torch.linspace(start, stop, num_gaussians, dtype=torch.float64)
        if gamma is None:
            gamma = 0.5 / float(offset[1] - offset[0]) ** 2
        self.register_buffer("offset", offset)
        self.register_buffer("gamma", torch.tensor(gamma, dtype=torch.float64))

    @classmethod
    def from_spacing(cls, stop: float, spacing: float = 0.1, gamma: float = 10.0) -> Self:
        """The grid of the papers: ``ceil(stop / spacing)`` centres from 0 to ``stop``.

        The count is that of the authors' code, which makes the actual spacing
        ``stop / (ceil(stop / spacing) - 1)``, a little more than ``spacing``.

        Args:
            stop: Last centre, Å.
            spacing: Nominal distance of two centres, Å.
            gamma: 1/Å².

        Raises:
            ValueError: As the constructor.

        Example:
            >>> GaussianSmearing.from_spacing(20.0).offset.numel()
            200
        """
        if not spacing > 0:
            raise ValueError(f"spacing must be positive (Å), got {spacing}.")
        return cls(0.0, stop, math.ceil(round(stop / spacing, 9)), gamma)

    def forward(self, distance: Tensor) -> Tensor:
        """Expand ``distance`` (E,), Å, to (E, num_gaussians) in its own dtype."""
        offset = self.offset.to(distance.dtype)  # [G]
        gamma = self.gamma.to(distance.dtype)
        exponent = -gamma * (distance.view(-1, 1) - offset).square()  # [E, G]
        if exponent.dtype == torch.float32 and exponent.is_cpu:
            # Below the smallest normal number the CPU's exp is ten times as slow.
            exponent = exponent.clamp(min=_LEAST_EXPONENT)
        return exponent.exp()

    def extra_repr(self) -> str:
        """The grid and the width."""
        first, last = float(self.offset[0]), float(self.offset[-1])
        return f"{first:g}..{last:g}, num_gaussians={self.offset.numel()}, gamma={self.gamma:g}"
