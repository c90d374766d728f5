"""Atoms that are only partly there, or partly of another element."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyg_schnet.nn.head import Head
from pyg_schnet.nn.pooling import pool
from pyg_schnet.nn.readout import Atomwise


@dataclass(frozen=True)
class FractionalAtoms:
    r"""Fading factors and fractional embeddings, by which molecules turn into others smoothly.

    .. math::
        v_i = \sum_j \alpha_j\, v_{ij}, \qquad
        E = \sum_i \alpha_i\, e_i, \qquad
        x_i^0 = (1 - \lambda_i)\, a_{A_i} + \lambda_i\, a_{B_i}

    =====================  ==================  ====================================================
    :math:`\alpha`         ``presence``        0 where an atom is absent, 1 where it is whole
    :math:`A`              ``z``               elements as given to the model
    :math:`B`              ``other``           elements at the other end
    :math:`\lambda`        ``fraction``        0 for element A, 1 for B
    =====================  ==================  ====================================================

    With :math:`\alpha_i = 0` the rest of the molecule is as it would be without atom i, and with 1
    the molecule is whole. A mean over atoms is taken with the weights :math:`\alpha`; the
    single-atom values of the readout are mixed as the embeddings are. All three may ask for
    gradients. The number of neighbours that ``max_num_neighbors`` keeps does not heed them.

    Schütt, thesis (TU Berlin, 2018), equations 3.14 and 3.15; Schütt et al., Nat. Commun. 8, 13890
    (2017). Differs from these: the constants of the readout fade with the atom too.

    Args:
        presence: (N,) in 0..1, or None for whole atoms.
        other: (N,) atomic numbers; None for none but ``z``.
        fraction: (N,) in 0..1; given with ``other``.

    Raises:
        ValueError: If only one of ``other`` and ``fraction`` is given.

    Example:
        >>> from pyg_schnet import SchNet
        >>> model, pos = SchNet(32, 32, 2, 20, 5.0), torch.rand(3, 3)
        >>> fading = FractionalAtoms(presence=torch.tensor([1.0, 1.0, 0.0]))
        >>> faded = model(torch.tensor([8, 1, 1]), pos, fractional=fading)
        >>> bool(torch.allclose(faded, model(torch.tensor([8, 1]), pos[:2])))
        True
    """

    presence: Tensor | None = None
    other: Tensor | None = None
    fraction: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.other is None) != (self.fraction is None):
            missing = "other" if self.other is None else "fraction"
            raise ValueError(
                "other and fraction belong together, the elements at the other end and how far "
                f"each atom is on its way, but {missing} is None; give both or neither."
            )

    def check(self, z: Tensor) -> None:
        """Check the shapes against the atoms of a model's input.

        Args:
            z: (N,) atomic numbers.

        Raises:
            ValueError: If a shape is another than (N,), ``presence`` or ``fraction`` are not
                floating point numbers, or ``other`` are no integers.
        """
        for name in ("presence", "other", "fraction"):
            value = getattr(self, name)
            if value is None:
                continue
            if value.shape != z.shape or value.is_floating_point() == (name == "other"):
                kind = "integer" if name == "other" else "floating point number"
                raise ValueError(
                    f"{name} must be one {kind} per atom, shape ({z.numel()},), got {value.dtype} "
                    f"of shape {tuple(value.shape)}."
                )

    def embed(self, embedding: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """First features of the atoms, (N, hidden_channels).

        Args:
            embedding: From atomic numbers to features.
            z: (N,) atomic numbers.
        """
        return self._mix(embedding, z)

    def fade(self, values: Tensor) -> Tensor:
        """Values of the atoms (N, C) times their presence."""
        if self.presence is None:
            return values
        return values * self.presence.to(values.dtype).view(-1, 1)

    def contributions(self, readout: Head, x: Tensor, z: Tensor) -> Tensor:
        """What each atom adds to the property, (N, out_channels), float64.

        Args:
            readout: The readout of the model.
            x: (N, hidden_channels) features.
            z: (N,) atomic numbers.

        Raises:
            ValueError: If the readout is no sum or mean of contributions.
        """
        if not isinstance(readout, Atomwise):
            raise ValueError(
                "Atoms can fade from sums and means of contributions, not from a "
                f"{type(readout).__name__}; use a model whose head is 'atomwise'."
            )
        return self.fade(readout.learned(x).double() + self._mix(readout.constant, z))

    def total(self, readout: Head, x: Tensor, z: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """The property of each molecule, (num_graphs, out_channels), float64.

        Args:
            readout: The readout of the model.
            x: (N, hidden_channels) features.
            z: (N,) atomic numbers.
            batch: (N,) molecule of each atom.
            num_graphs: Number of molecules.

        Raises:
            ValueError: As :meth:`contributions`.
        """
        values = self.contributions(readout, x, z)
        total = pool(values, batch, num_graphs, "add") * readout.scale
        words = readout.readout if isinstance(readout, Atomwise) else "add"
        if words == "add":
            return total
        ones = self.fade(values.new_ones(values.size(0), 1))
        counts = pool(ones, batch, num_graphs, "add")  # [B, 1]
        # Where no atom is left the sum is zero, and so is the mean.
        counts = torch.where(counts == 0, torch.ones_like(counts), counts)
        if words == "mean":
            return total / counts
        averaged = torch.tensor([word == "mean" for word in words], device=total.device)
        return torch.where(averaged, total / counts, total)

    def _mix(self, function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
        """Values of the elements, interpolated."""
        values = function(z)
        if self.other is None or self.fraction is None:
            return values
        fraction = self.fraction.to(values.dtype).view(-1, 1)
        return (1 - fraction) * values + fraction * function(self.other.long())
