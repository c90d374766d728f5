"""The dipole moment from latent charges."""

from typing import ClassVar

import torch
from torch import Tensor

from pyg_schnet.nn.centre_of_mass import atomic_masses, from_centre_of_mass
from pyg_schnet.nn.head import Head
from pyg_schnet.nn.pooling import pool
from pyg_schnet.units import DEBYE

UNITS = {None: 1.0, "e·Å": 1.0, "D": 1.0 / DEBYE}
"""One e·Å in each unit."""


class Dipole(Head):
    r"""The dipole moment from atomic charges and positions, or its magnitude.

    .. math::
        \boldsymbol\mu = s\,c \sum_i q_i\,(\mathbf r_i - \mathbf r_0), \qquad
        q_i = A_2\,\mathrm{ssp}(A_1 x_i + a_1) + a_2

    =====================  ==================  ====================================================
    :math:`\mathbf r_0`    ``atomic_mass``     centre of mass of the molecule
    :math:`c`              ``unit``            what one e·Å is in the unit of the dipole
    :math:`s`              ``scale``           a factor of the result, usually 1; float64
    =====================  ==================  ====================================================

    The charges are latent: learned from dipole moments alone. The centre makes the result
    independent of the origin even if they do not add up to zero, as PyG leaves them; ``neutral``
    makes them do so, by subtracting the same from each atom of a molecule:

    .. math::
        q_i \leftarrow q_i - \frac{1}{N} \Big( \sum_j q_j - Q \Big)

    Schütt et al., J. Chem. Theory Comput. 15, 448 (2019) (SchNetPack), output module for dipole
    moments; Gastegger, Behler and Marquetand, Chem. Sci. 8, 6924 (2017).

    Args:
        in_channels: Features of an atom.
        hidden_channels: Width of the hidden layer; None takes ``in_channels // 2``.
        magnitude: Return the norm (B, 1) instead of the vector (B, 3).
        neutral: Shift the charges so that they add up to the total charge Q, zero if not given.
        unit: Of the result: "D" (Debye) or "e·Å", and charges are in e; None leaves the unit to
            the targets, and charges are in that unit per Å, as in PyG.
        activation: "ssp", "silu" or "tanh".

    Raises:
        ValueError: If ``unit`` or ``activation`` is unknown.

    Example:
        >>> head = Dipole(64)
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
        magnitude: bool = True,
        neutral: bool = False,
        unit: str | None = None,
        activation: str = "ssp",
    ) -> None:
        if unit not in UNITS:
            raise ValueError(f"unit must be 'D', 'e·Å' or None, got {unit!r}.")
        super().__init__(in_channels, 1, hidden_channels, activation)
        self.magnitude = magnitude
        self.neutral = neutral
        self.unit = unit
        self.register_buffer("atomic_mass", atomic_masses())
        self.reset_parameters()

    def learned(self, x: Tensor) -> Tensor:
        """Charges of the atoms before they are shifted, (N, 1): e, or the dipole's unit per Å."""
        return self.network(x)

    def shifted(
        self, charge: Tensor, batch: Tensor, num_graphs: int, total_charge: Tensor | None = None
    ) -> Tensor:
        """Charges of the atoms as they enter the dipole moment, (N, 1).

        Args:
            charge: Those of :meth:`learned`, (N, 1).
            batch: Molecule of each atom (N,).
            num_graphs: Number of molecules, B.
            total_charge: (B,), in the unit of the charges; None is zero.

        Raises:
            ValueError: If a total charge is given but ``neutral`` is not set.
        """
        if not self.neutral:
            if total_charge is not None:
                raise ValueError(
                    "total_charge is given, but these charges are free: use Dipole(neutral=True)."
                )
            return charge
        excess = pool(charge, batch, num_graphs, "mean")  # [B, 1]
        if total_charge is not None:
            counts = torch.bincount(batch, minlength=num_graphs).clamp(min=1)
            excess = excess - (total_charge.to(charge.dtype) / counts).view(-1, 1)
        return charge - excess.index_select(0, batch)

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        batch: Tensor,
        num_graphs: int,
        pos: Tensor,
        dtype: torch.dtype | None = None,
        total_charge: Tensor | None = None,
    ) -> Tensor:
        """The dipole of each molecule: magnitudes (B, 1) or vectors (B, 3).

        Args:
            x: Features (N, in_channels).
            z: Atomic numbers (N,).
            batch: Molecule of each atom (N,).
            num_graphs: Number of molecules, B.
            pos: Positions (N, 3), Å; whole molecules.
            dtype: Of the result; None takes that of ``x``.
            total_charge: (B,), in the unit of the charges, for ``neutral``; None is zero.

        Raises:
            ValueError: As :meth:`shifted`.
        """
        learned = self.learned(x)
        return self.combine(learned, z, batch, num_graphs, pos, dtype, total_charge)

    def combine(
        self,
        learned: Tensor,
        z: Tensor,
        batch: Tensor,
        num_graphs: int,
        pos: Tensor,
        dtype: torch.dtype | None = None,
        total_charge: Tensor | None = None,
    ) -> Tensor:
        """The result from what :meth:`learned` gave, (N, 1); else as :meth:`forward`."""
        charge = self.shifted(learned, batch, num_graphs, total_charge)
        mass = self.atomic_mass.index_select(0, z)
        distance = from_centre_of_mass(pos, mass, batch, num_graphs)  # [N, 3]
        factor = UNITS[self.unit] * self.scale.to(pos.dtype)
        out = pool(charge * distance, batch, num_graphs, "add") * factor
        if self.magnitude:
            out = _norm(out)
        return out.to(pos.dtype if dtype is None else dtype)


def _norm(vectors: Tensor) -> Tensor:
    """Lengths (B, 1), whose derivatives of any order are zero, not NaN, where the vector is."""
    squared = vectors.square().sum(dim=-1, keepdim=True)
    occupied = squared > 0
    return torch.where(occupied, torch.where(occupied, squared, 1.0).sqrt(), 0.0)
