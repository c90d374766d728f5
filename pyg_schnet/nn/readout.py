"""From atoms to a property of the molecule: sums and means of contributions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyg_schnet.nn.dipole import Dipole
from pyg_schnet.nn.head import MAX_ATOMIC_NUMBER, AtomicValues
from pyg_schnet.nn.pooling import pool

__all__ = ["MAX_ATOMIC_NUMBER", "Atomwise", "Dipole", "pool"]


class Atomwise(AtomicValues):
    r"""A property as the sum, or the mean, of atomic contributions; or several at once.

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

    Several properties share the hidden layer; each has its own constants, and may have its own
    ``readout``.

    Args:
        in_channels: Features of an atom.
        out_channels: Properties predicted together.
        hidden_channels: Width of the hidden layer; None takes ``in_channels // 2``.
        readout: "add" ("sum" is the same) or "mean", or one of them per property.
        mean: Per-atom mean, in the unit of the property; one number, or one per property.
        std: Per-atom standard deviation; one number, or one per property.
        atomref: Single-atom values by atomic number, (100, out_channels) or (100,).
        activation: "ssp", or "silu" (SchNetPack's, unless told otherwise) or "tanh" (DTNN's). The
            compiled evaluations know the ssp; others are left to torch.

    Raises:
        ValueError: If ``readout`` or ``activation`` is unknown, ``std`` is not positive or a
            constant has another shape.

    Example:
        >>> head = Atomwise(64, mean=-76.1, std=10.3)
        >>> x, z = torch.rand(3, 64), torch.tensor([8, 1, 1])
        >>> head(x, z, torch.zeros(3, dtype=torch.long), num_graphs=1).shape
        torch.Size([1, 1])
        >>> Atomwise(64, 2, readout=["add", "mean"], mean=torch.tensor([-76.1, 5.0])).readout
        ('add', 'mean')
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        hidden_channels: int | None = None,
        *,
        readout: str | Sequence[str] = "add",
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
        activation: str = "ssp",
    ) -> None:
        constants = (mean, std, atomref)
        super().__init__(in_channels, out_channels, hidden_channels, *constants, activation)
        self.readout = _checked_readout(readout, out_channels)
        self.reset_parameters()

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


def _checked_readout(readout: str | Sequence[str], out_channels: int) -> str | tuple[str, ...]:
    """The word for all properties where it is the same, else one for each."""
    given = (readout,) if isinstance(readout, str) else tuple(readout)
    words = tuple("add" if word == "sum" else word for word in given)
    for word in words:
        if word not in ("add", "mean"):
            raise ValueError(f"readout must be 'add' (or 'sum') or 'mean', got {word!r}.")
    if len(words) not in (1, out_channels):
        raise ValueError(
            f"readout must be one word, or one for each of the {out_channels} properties, got "
            f"{len(words)}."
        )
    return words[0] if len(set(words)) == 1 else words
