"""The set2set readout."""

import torch
from torch import Tensor, nn

from pyg_schnet.nn.head import AtomicValues
from pyg_schnet.nn.pooling import pool
from pyg_schnet.nn.softmax import softmax_weights


class Set2SetPooling(AtomicValues):
    r"""A property of the molecule as a whole, from attention to its atoms in several rounds.

    .. math::
        (h_t, c_t) &= \mathrm{LSTM}(h_{t-1} \oplus r_{t-1},\; c_{t-1}) \\
        r_t &= \sum_i \mathrm{softmax}_i(x_i \cdot h_t)\; x_i \\
        y &= s\,\Big(\sigma \left(A_2\,\mathrm{ssp}(A_1 (h_T \oplus r_T) + a_1) + a_2\right)
        + \mu + \frac{1}{N} \sum_i e_0(Z_i)\Big)

    from zeros, with softmax and sums over the atoms of the molecule. The LSTM is ``cell``; the
    layers :math:`A` and the constants are named as in :class:`~pyg_schnet.nn.Atomwise`, but act on
    the molecule. Intensive: of two equal molecules far apart it gives what it gives of one.

    Vinyals, Bengio and Kudlur, "Order matters", ICLR 2016, section 4; for QM9 Gilmer et al.,
    "Neural message passing for quantum chemistry", ICML 2017 (there with the initial features of
    the atoms appended). The rounds are those of PyG's ``Set2Set``, whose LSTM torch.compile cannot
    take.

    Args:
        in_channels: Features of an atom.
        out_channels: Properties predicted together.
        hidden_channels: Width of the hidden layer; None takes ``in_channels``.
        steps: Rounds, T.
        mean: Mean of the property; one number, or one per property.
        std: Its standard deviation.
        atomref: Values by atomic number, averaged over the atoms, (100, out_channels) or (100,).

    Raises:
        ValueError: If ``std`` is not positive, a constant has another shape, or ``steps`` is less
            than one.

    Example:
        >>> head = Set2SetPooling(64)
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
        steps: int = 3,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}.")
        super().__init__(2 * in_channels, out_channels, hidden_channels, mean, std, atomref)
        self.steps = steps
        self.cell = nn.LSTMCell(2 * in_channels, in_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases, and the LSTM's own; the constants stay."""
        super().reset_parameters()
        if hasattr(self, "cell"):
            self.cell.reset_parameters()

    def contributions(self, x: Tensor, z: Tensor) -> Tensor:
        """There are none.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "The set2set readout has no contributions of atoms; use head='atomwise' or 'softmax'."
        )

    def rounds(self, x: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """The state of each molecule after the last round, (B, 2 in_channels)."""
        hidden = memory = found = x.new_zeros(num_graphs, x.size(1))
        for _ in range(self.steps):
            hidden, memory = self.cell(torch.cat([hidden, found], dim=1), (hidden, memory))
            score = (x * hidden.index_select(0, batch)).sum(dim=1, keepdim=True)  # [N, 1]
            found = pool(softmax_weights(score, batch, num_graphs) * x, batch, num_graphs, "add")
        return torch.cat([hidden, found], dim=1)

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
        state = self.rounds(x, batch, num_graphs)
        constant = pool(self.constant(z), batch, num_graphs, "mean")
        occupied = torch.bincount(batch, minlength=num_graphs).view(-1, 1) > 0
        out = (self.learned(state).double() * occupied + constant) * self.scale
        return out.to(x.dtype if dtype is None else dtype)
