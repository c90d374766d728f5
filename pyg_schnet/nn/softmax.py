"""A mean over the atoms of each molecule with learned weights."""

import torch
from torch import Tensor, nn

from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.head import AtomicValues, reset_dense
from pyg_schnet.nn.pooling import pool


def softmax_weights(scores: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Softmax of ``scores`` (N, C) over the atoms of each molecule; they add up to one there.

    Args:
        scores: One row per atom.
        batch: (N,) molecule of each atom.
        num_graphs: Number of molecules, B.

    Example:
        >>> scores = torch.tensor([[5.0], [0.0], [0.0]])
        >>> softmax_weights(scores, torch.tensor([0, 1, 1]), 2).flatten().tolist()
        [1.0, 0.5, 0.5]
    """
    index = batch.view(-1, 1).expand_as(scores)
    highest = scores.new_zeros(num_graphs, scores.size(1)).scatter_reduce(
        0, index, scores.detach(), "amax", include_self=False
    )
    powers = torch.exp(scores - highest.index_select(0, batch))  # [N, C]
    total = pool(powers, batch, num_graphs, "add")
    return powers / total.index_select(0, batch)


class SoftmaxPooling(AtomicValues):
    r"""A property of the molecule as a whole: a mean of atomic values with learned weights.

    .. math::
        y = s \sum_i w_i\, e_i, \qquad
        w_i = \frac{\exp u(x_i)}{\sum_j \exp u(x_j)}

    with the sum over the atoms of the same molecule and, for each property on its own,

    =====================  ==================  ====================================================
    :math:`e_i`            ``contributions``   network and constants of the atoms, as in
                                               :class:`~pyg_schnet.nn.Atomwise`
    :math:`u`              ``score1, score2``  dense, ssp, dense; without constants
    :math:`s`              ``scale``           a factor of the result, usually 1; float64
    =====================  ==================  ====================================================

    Intensive: of two equal molecules far from each other it gives what it gives of one. ``score2``
    starts at zero, so that training starts from the mean over the atoms; a frontier orbital, which
    lives on a few of them, can then gather its weight there.

    Li et al., "Gated graph sequence neural networks", ICLR 2016, equation 7 (attention, there
    without normalisation); for orbital energies Chen, Kunkel, Cheng, Reuter and Margraf, Chem. Sci.
    14, 4913 (2023). The papers on SchNet average instead.

    Args:
        in_channels: Features of an atom.
        out_channels: Properties predicted together, each with its own weights.
        hidden_channels: Width of both hidden layers; None takes ``in_channels // 2``.
        mean: Mean of the property; one number, or one per property.
        std: Its standard deviation.
        atomref: Values by atomic number, (100, out_channels) or (100,).

    Raises:
        ValueError: If ``std`` is not positive or a constant has another shape.

    Example:
        >>> head = SoftmaxPooling(64)
        >>> x, z = torch.rand(3, 64), torch.tensor([8, 1, 1])
        >>> head(x, z, torch.zeros(3, dtype=torch.long), num_graphs=1).shape
        torch.Size([1, 1])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        hidden_channels: int | None = None,
        *,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
    ) -> None:
        super().__init__(in_channels, out_channels, hidden_channels, mean, std, atomref)
        hidden = self.lin1.out_features
        self.score1 = Dense(in_channels, hidden)
        self.score2 = nn.Linear(hidden, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases, equal scores; the constants stay."""
        super().reset_parameters()
        if hasattr(self, "score2"):
            reset_dense(self.score1)
            nn.init.zeros_(self.score2.weight)
            nn.init.zeros_(self.score2.bias)

    def weights(self, x: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """What each atom counts, (N, out_channels); adds up to one in each molecule."""
        scores = self.score2(self.act(self.score1(x)))
        return softmax_weights(scores, batch, num_graphs)

    def forward(
        self,
        x: Tensor,
        z: Tensor,
        batch: Tensor,
        num_graphs: int,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """The property of each molecule, (B, out_channels); zero for one without atoms.

        Args:
            x: Features (N, in_channels).
            z: Atomic numbers (N,).
            batch: Molecule of each atom (N,).
            num_graphs: Number of molecules, B.
            dtype: Of the result; None takes that of ``x``.
        """
        weighted = self.weights(x, batch, num_graphs) * self.contributions(x, z)
        out = pool(weighted, batch, num_graphs, "add") * self.scale
        return out.to(x.dtype if dtype is None else dtype)
