"""From atoms to a property of the molecule."""

import torch
from torch import Tensor, nn

from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.precision import Float64Buffers

MAX_ATOMIC_NUMBER = 99


def pool(values: Tensor, batch: Tensor, num_graphs: int, readout: str) -> Tensor:
    """Sum or average ``values`` (N, C) over the atoms of each molecule, (num_graphs, C).

    An empty molecule gives zero.

    Args:
        values: One row per atom.
        batch: (N,) molecule of each atom.
        num_graphs: Number of molecules, B.
        readout: "add" or "mean".

    Example:
        >>> pool(torch.tensor([[1.0], [2.0], [6.0]]), torch.tensor([0, 1, 1]), 2, "mean")
        tensor([[1.],
                [4.]])
    """
    total = values.new_zeros(num_graphs, values.size(1)).index_add(0, batch, values)
    if readout == "add":
        return total
    counts = torch.bincount(batch, minlength=num_graphs).clamp(min=1)
    return total / counts.view(-1, 1).to(values.dtype)


class Atomwise(Float64Buffers):
    r"""A property as the sum, or the mean, of atomic contributions.

    .. math::
        E = s \sum_i e_i, \qquad
        e_i = \sigma\,\left(A_2\,\mathrm{ssp}(A_1 x_i + a_1) + a_2\right) + \mu + e_0(Z_i)

    =====================  ==================  ====================================================
    :math:`A_1, a_1`       ``lin1``            dense, in_channels to hidden_channels
    :math:`A_2, a_2`       ``lin2``            dense, to out_channels
    :math:`\mu, \sigma`    ``mean, std``       per atom, from the training set; float64, not trained
    :math:`e_0(Z)`         ``atomref``         single-atom values, (100, out_channels); float64
    :math:`s`              ``scale``           a factor of the result, usually 1; float64
    =====================  ==================  ====================================================

    Schütt et al., J. Chem. Phys. 148, 241722 (2018): sums for extensive, means for
    intensive properties. Constants are added in float64, because float32 has a spacing of 1e-3 eV
    at the total energy of a small molecule; the result is then cast to ``dtype``.

    Args:
        in_channels: Features of an atom.
        out_channels: Properties predicted together.
        hidden_channels: Width of the hidden layer; None takes ``in_channels // 2``.
        readout: "add" ("sum" is the same) or "mean".
        mean: Per-atom mean, in the unit of the property.
        std: Per-atom standard deviation.
        atomref: Single-atom values by atomic number, (100, out_channels) or (100,).

    Raises:
        ValueError: If ``readout`` is unknown, ``std`` is not positive or ``atomref`` has another
            shape.

    Example:
        >>> head = Atomwise(64, mean=-76.1, std=10.3)
        >>> x, z = torch.rand(3, 64), torch.tensor([8, 1, 1])
        >>> head(x, z, torch.zeros(3, dtype=torch.long), num_graphs=1).shape
        torch.Size([1, 1])
    """

    float64_buffers = ("mean", "std", "atomref", "scale")
    mean: Tensor
    std: Tensor
    atomref: Tensor
    scale: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        hidden_channels: int | None = None,
        *,
        readout: str = "add",
        mean: float | None = None,
        std: float | None = None,
        atomref: Tensor | None = None,
    ) -> None:
        super().__init__()
        readout = "add" if readout == "sum" else readout
        if readout not in ("add", "mean"):
            raise ValueError(f"readout must be 'add' (or 'sum') or 'mean', got {readout!r}.")
        self.readout = readout
        hidden = in_channels // 2 if hidden_channels is None else hidden_channels
        self.lin1 = Dense(in_channels, hidden)
        self.act = ShiftedSoftplus()
        self.lin2 = nn.Linear(hidden, out_channels)
        for name, value in (("mean", 0.0), ("std", 1.0), ("scale", 1.0)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float64))
        self.register_buffer(
            "atomref", torch.zeros(MAX_ATOMIC_NUMBER + 1, out_channels, dtype=torch.float64)
        )
        self.set_statistics(mean, std, atomref)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases; the constants stay."""
        for layer in (self.lin1, self.lin2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def set_statistics(
        self,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
    ) -> None:
        """Set the constants that are given, in the unit of the property.

        Args:
            mean: Per-atom mean.
            std: Per-atom standard deviation.
            atomref: Single-atom values, (100, out_channels) or (100,).

        Raises:
            ValueError: If ``std`` is not positive or ``atomref`` has another shape.
        """
        if mean is not None:
            self.mean.fill_(float(mean))
        if std is not None:
            if not float(std) > 0:
                raise ValueError(f"std must be positive, got {float(std)}.")
            self.std.fill_(float(std))
        if atomref is not None:
            if atomref.numel() != self.atomref.numel():
                raise ValueError(
                    f"atomref must have shape {tuple(self.atomref.shape)}, one row per atomic "
                    f"number from 0 to {MAX_ATOMIC_NUMBER}, got {tuple(atomref.shape)}."
                )
            self.atomref.copy_(atomref.detach().view_as(self.atomref))

    def learned(self, x: Tensor) -> Tensor:
        """The contributions without their constants: sigma times the network, (N, out_channels)."""
        return self.lin2(self.act(self.lin1(x))) * self.std.to(x.dtype)

    def constant(self, z: Tensor) -> Tensor:
        """The constants of each atom, mean + atomref, (N, out_channels), float64."""
        return self.atomref.index_select(0, z) + self.mean

    def contributions(self, x: Tensor, z: Tensor) -> Tensor:
        """Contributions with their constants, (N, out_channels), float64."""
        return self.learned(x).double() + self.constant(z)

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        batch: Tensor,
        num_graphs: int,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The property of each molecule.

        Args:
            x: Features (N, in_channels).
            z: Atomic numbers (N,).
            batch: Molecule of each atom (N,).
            num_graphs: Number of molecules, B.
            dtype: Of the result; None takes that of ``x``.

        Returns:
            (B, out_channels).
        """
        out = pool(self.contributions(x, z), batch, num_graphs, self.readout) * self.scale
        return out.to(x.dtype if dtype is None else dtype)


class Dipole(nn.Module):
    r"""The dipole moment from atomic charges and positions, or its magnitude.

    .. math::
        \boldsymbol\mu = s \sum_i q_i\,(\mathbf r_i - \mathbf r_0), \qquad
        q_i = A_2\,\mathrm{ssp}(A_1 x_i + a_1) + a_2

    with :math:`\mathbf r_0` the centre of mass. Charges are not forced to be neutral, as in PyG
    (SchNetPack can shift them so); the centre makes the result independent of the origin all the
    same.

    Schütt et al., J. Chem. Theory Comput. 15, 448 (2019) (SchNetPack).

    Args:
        in_channels: Features of an atom.
        hidden_channels: Width of the hidden layer; None takes ``in_channels // 2``.
        magnitude: Return the norm (B, 1) instead of the vector (B, 3).

    Example:
        >>> head = Dipole(64)
        >>> x, z, pos = torch.rand(3, 64), torch.tensor([8, 1, 1]), torch.rand(3, 3)
        >>> head(x, z, torch.zeros(3, dtype=torch.long), num_graphs=1, pos=pos).shape
        torch.Size([1, 1])
    """

    atomic_mass: Tensor
    scale: Tensor

    def __init__(
        self, in_channels: int, hidden_channels: int | None = None, *, magnitude: bool = True
    ) -> None:
        from ase.data import atomic_masses

        super().__init__()
        hidden = in_channels // 2 if hidden_channels is None else hidden_channels
        self.magnitude = magnitude
        self.lin1 = Dense(in_channels, hidden)
        self.act = ShiftedSoftplus()
        self.lin2 = nn.Linear(hidden, 1)
        self.register_buffer("atomic_mass", torch.tensor(atomic_masses, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(1.0, dtype=torch.float64))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases."""
        for layer in (self.lin1, self.lin2):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def contributions(self, x: Tensor, z: Tensor) -> Tensor:
        """Charges of the atoms, (N, 1), in the unit of the dipole per Å."""
        return self.lin2(self.act(self.lin1(x)))

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        batch: Tensor,
        num_graphs: int,
        pos: Tensor,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The dipole of each molecule: magnitudes (B, 1) or vectors (B, 3).

        Args:
            x: Features (N, in_channels).
            z: Atomic numbers (N,).
            batch: Molecule of each atom (N,).
            num_graphs: Number of molecules, B.
            pos: Positions (N, 3), Å.
            dtype: Of the result; None takes that of ``x``.
        """
        mass = self.atomic_mass.to(pos.dtype).index_select(0, z).view(-1, 1)
        total = pool(mass, batch, num_graphs, "add")
        centre = pool(mass * pos, batch, num_graphs, "add") / total.clamp(min=1e-12)
        moments = self.contributions(x, z) * (pos - centre.index_select(0, batch))
        out = pool(moments, batch, num_graphs, "add") * self.scale.to(x.dtype)
        if self.magnitude:
            out = torch.linalg.vector_norm(out, dim=-1, keepdim=True)
        return out.to(x.dtype if dtype is None else dtype)
