"""The electronic spatial extent from latent electron counts."""

from typing import ClassVar

import torch
from torch import Tensor

from pyg_schnet.nn.centre_of_mass import atomic_masses, from_centre_of_mass
from pyg_schnet.nn.head import MAX_ATOMIC_NUMBER, AtomicValues
from pyg_schnet.nn.pooling import pool
from pyg_schnet.units import BOHR

UNITS = {"Bohr^2": 1.0 / BOHR**2, "Å^2": 1.0}
"""One Å^2 in each unit."""


class SpatialExtent(AtomicValues):
    r"""The electronic spatial extent from the electrons of each atom and their own extent.

    .. math::
        \langle R^2 \rangle = s \sum_i \left( c\,n_i\,|\mathbf r_i - \mathbf r_0|^2 + b_i \right)

    =====================  ==================  ====================================================
    :math:`n_i`            column 0            electrons of atom i, :math:`n_0(Z_i)` + network
    :math:`b_i`            column 1            extent of atom i about its nucleus, likewise; only
                                               with ``own``
    :math:`\mathbf r_0`    ``atomic_mass``     centre of mass of the molecule
    :math:`c`              ``unit``            what one Å^2 is in the unit of the result
    :math:`s`              ``scale``           a factor of the result, usually 1; float64
    =====================  ==================  ====================================================

    Both columns are network times ``std`` plus ``mean`` plus ``atomref``, as in
    :class:`~pyg_schnet.nn.Atomwise`; before :meth:`fit`, :math:`n_0(Z) = Z` (neutral atoms) and
    :math:`b_0 = 0`. The formula is the parallel-axis theorem for a density that is a sum of
    spherical clouds about the nuclei; a dressed-atom fit of it with two numbers per element is
    already right to a percent for small organic molecules.

    SchNetPack's ``ElectronicSpatialExtent`` (Schütt et al., J. Chem. Theory Comput. 15, 448 (2019))
    has the first term alone, with :math:`n_0 = 0`; a single atom then has no extent.

    Args:
        in_channels: Features of an atom.
        hidden_channels: Width of the hidden layer; None takes ``in_channels // 2``.
        own: Have the second term.
        unit: Of the result: "Bohr^2", as in QM9, or "Å^2".

    Raises:
        ValueError: If ``unit`` is unknown.

    Example:
        >>> head = SpatialExtent(64)
        >>> x, z, pos = torch.rand(3, 64), torch.tensor([8, 1, 1]), torch.rand(3, 3)
        >>> head(x, z, torch.zeros(3, dtype=torch.long), num_graphs=1, pos=pos).shape
        torch.Size([1, 1])
    """

    uses_positions: ClassVar[bool] = True
    atomic_mass: Tensor

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int | None = None,
        *,
        own: bool = True,
        unit: str = "Bohr^2",
    ) -> None:
        if unit not in UNITS:
            raise ValueError(f"unit must be 'Bohr^2' or 'Å^2', got {unit!r}.")
        super().__init__(in_channels, 2 if own else 1, hidden_channels, None, None, None)
        self.own = own
        self.unit = unit
        self.register_buffer("atomic_mass", atomic_masses())
        self.atomref[:, 0] = torch.arange(MAX_ATOMIC_NUMBER + 1)
        self.reset_parameters()

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        batch: Tensor,
        num_graphs: int,
        pos: Tensor,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The extent of each molecule, (B, 1).

        Args:
            x: Features (N, in_channels).
            z: Atomic numbers (N,).
            batch: Molecule of each atom (N,).
            num_graphs: Number of molecules, B.
            pos: Positions (N, 3), Å; whole molecules.
            dtype: Of the result; None takes that of ``x``.
        """
        return self.combine(self.learned(x), z, batch, num_graphs, pos, dtype)

    def combine(
        self,
        learned: Tensor,
        z: Tensor,
        batch: Tensor,
        num_graphs: int,
        pos: Tensor,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The result from what :meth:`learned` gave, (N, C); else as :meth:`forward`."""
        columns = self._columns(z, batch, num_graphs, pos)  # [N, C]
        values = (self.with_constants(learned, z) * columns).sum(dim=1, keepdim=True)
        out = pool(values, batch, num_graphs, "add") * self.scale
        return out.to(learned.dtype if dtype is None else dtype)

    def _columns(self, z: Tensor, batch: Tensor, num_graphs: int, pos: Tensor) -> Tensor:
        """What the numbers of each atom are multiplied by."""
        mass = self.atomic_mass.index_select(0, z)
        distance = from_centre_of_mass(pos, mass, batch, num_graphs)
        squared = distance.square().sum(dim=1, keepdim=True) * UNITS[self.unit]
        return torch.cat([squared, torch.ones_like(squared)], dim=1) if self.own else squared

    @torch.no_grad()
    def fit(self, z: Tensor, pos: Tensor, batch: Tensor, target: Tensor) -> float:
        r"""Set the constants by least squares: dressed atoms for this property.

        .. math::
            \min_{n_0, b_0} \sum_m \Big( y_m -
            \sum_{i \in m} \left( c\,n_0(Z_i)\,|\mathbf r_i - \mathbf r_0|^2 + b_0(Z_i) \right)
            \Big)^2

        Elements that do not occur keep what they have. ``std`` becomes the size of the corrections
        that would make up for what is left, if all atoms shared it: of :math:`n`, of :math:`b`.

        Args:
            z: Atomic numbers (N,) of the training set.
            pos: Positions (N, 3), Å.
            batch: Molecule of each atom (N,).
            target: (B,) or (B, 1), in the unit of the head.

        Returns:
            The root mean square of what is left.
        """
        y = target.detach().double().view(-1, 1)
        columns = self._columns(z, batch, len(y), pos.double())  # [N, C]
        present = torch.unique(z)
        place = torch.searchsorted(present, z)
        size, width = len(present), columns.size(1)
        design = columns.new_zeros(len(y) * size, width)
        design.index_add_(0, batch * size + place, columns)
        design = design.view(len(y), size * width)
        known = torch.linalg.lstsq(design.cpu(), y.cpu(), driver="gelsd").solution.to(y.device)
        left = y - design @ known
        self.mean.zero_()
        self.atomref[present] = known.view(size, width)
        rms = float(left.square().mean().sqrt())
        lever = pool(columns, batch, len(y), "add").square().mean(dim=0).sqrt()
        self.std.copy_((rms / lever).clamp(min=1e-8).view_as(self.std))
        return rms
