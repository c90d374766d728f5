"""What the heads share: a small network on the features of each atom, and constants."""

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from pyg_schnet.nn.activation import ShiftedSoftplus
from pyg_schnet.nn.dense import Dense
from pyg_schnet.nn.precision import Float64Buffers

MAX_ATOMIC_NUMBER = 99

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "ssp": ShiftedSoftplus,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Of the hidden layer: SchNet's, SchNetPack's own, and DTNN's."""


def reset_dense(layer: nn.Module) -> None:
    """Xavier-uniform weights and a zero bias."""
    dense = cast(nn.Linear, layer)
    nn.init.xavier_uniform_(dense.weight)
    nn.init.zeros_(dense.bias)


class Head(Float64Buffers):
    r"""Two dense layers from the features of an atom to its numbers; heads build upon them.

    .. math::
        A_2\,\mathrm{ssp}(A_1 x_i + a_1) + a_2

    Args:
        in_channels: Features of an atom.
        out_channels: Numbers per atom.
        hidden_channels: Width of the hidden layer; None takes ``in_channels // 2``.
        activation: "ssp", or "silu" or "tanh" in its place.

    Raises:
        ValueError: If ``activation`` is unknown.

    Attributes:
        uses_positions: Whether ``forward`` takes ``pos`` after ``num_graphs``.
        uses_edges: Whether it takes ``edge_index`` and the vectors of the edges there.
    """

    float64_buffers: tuple[str, ...] = ("scale",)
    uses_positions: ClassVar[bool] = False
    uses_edges: bool = False
    scale: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        hidden_channels: int | None = None,
        activation: str = "ssp",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            known = ", ".join(repr(name) for name in ACTIVATIONS)
            raise ValueError(f"activation must be one of {known}, got {activation!r}.")
        hidden = in_channels // 2 if hidden_channels is None else hidden_channels
        self.lin1 = Dense(in_channels, hidden)
        self.act = ACTIVATIONS[activation]()
        self.lin2 = nn.Linear(hidden, out_channels)
        self.register_buffer("scale", torch.tensor(1.0, dtype=torch.float64))

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases; the constants stay."""
        reset_dense(self.lin1)
        reset_dense(self.lin2)

    def network(self, x: Tensor) -> Tensor:
        """The two layers, (N, out_channels)."""
        return self.lin2(self.act(self.lin1(x)))

    def learned(self, x: Tensor) -> Tensor:
        """The numbers of each atom without constants, (N, out_channels)."""
        return self.network(x)

    def contributions(self, x: Tensor, z: Tensor) -> Tensor:
        """The numbers of each atom before the head looks at the molecule, (N, out_channels)."""
        return self.learned(x)


class AtomicValues(Head):
    r"""Numbers of each atom, from the network and from constants.

    .. math::
        e_i = \sigma\,\left(A_2\,\mathrm{ssp}(A_1 x_i + a_1) + a_2\right) + \mu + e_0(Z_i)

    Constants are one number, or one per property, in float64.

    Args:
        in_channels: Features of an atom.
        out_channels: Numbers per atom.
        hidden_channels: Width of the hidden layer; None takes ``in_channels // 2``.
        mean: :math:`\mu`; a number, or one per channel.
        std: :math:`\sigma`; a number, or one per channel.
        atomref: :math:`e_0`, (100, out_channels) or (100,).
        activation: In place of the ssp: "silu" or "tanh".
    """

    float64_buffers = ("mean", "std", "atomref", "scale")
    mean: Tensor
    std: Tensor
    atomref: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int | None,
        mean: float | Tensor | None,
        std: float | Tensor | None,
        atomref: Tensor | None,
        activation: str = "ssp",
    ) -> None:
        super().__init__(in_channels, out_channels, hidden_channels, activation)
        shape = () if out_channels == 1 else (out_channels,)
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("std", torch.ones(shape, dtype=torch.float64))
        self.register_buffer(
            "atomref", torch.zeros(MAX_ATOMIC_NUMBER + 1, out_channels, dtype=torch.float64)
        )
        self.set_statistics(mean, std, atomref)

    def set_statistics(
        self,
        mean: float | Tensor | None = None,
        std: float | Tensor | None = None,
        atomref: Tensor | None = None,
    ) -> None:
        """Set the constants that are given, in the unit of the property.

        Args:
            mean: Per-atom mean; a number, or one per channel.
            std: Per-atom standard deviation; a number, or one per channel.
            atomref: Single-atom values, (100, out_channels) or (100,).

        Raises:
            ValueError: If ``std`` is not positive or a constant has another shape.
        """
        if mean is not None:
            self.mean.copy_(self._per_channel("mean", mean))
        if std is not None:
            given = self._per_channel("std", std)
            if not bool((given > 0).all()):
                raise ValueError(f"std must be positive, got {given.tolist()}.")
            self.std.copy_(given)
        if atomref is not None:
            if atomref.numel() != self.atomref.numel():
                raise ValueError(
                    f"atomref must have shape {tuple(self.atomref.shape)}, one row per atomic "
                    f"number from 0 to {MAX_ATOMIC_NUMBER}, got {tuple(atomref.shape)}."
                )
            self.atomref.copy_(atomref.detach().view_as(self.atomref))

    def _per_channel(self, name: str, value: float | Tensor) -> Tensor:
        given = torch.as_tensor(value, dtype=torch.float64).detach()
        if given.numel() not in (1, self.mean.numel()):
            raise ValueError(
                f"{name} must be one number, or one for each of the {self.mean.numel()} channels, "
                f"got shape {tuple(given.shape)}."
            )
        return given.reshape(() if given.numel() == 1 else self.mean.shape)

    def learned(self, x: Tensor) -> Tensor:
        """The numbers without their constants: sigma times the network, (N, out_channels)."""
        return self.network(x) * self.std.to(x.dtype)

    def constant(self, z: Tensor) -> Tensor:
        """The constants of each atom, mean + atomref, (N, out_channels), float64."""
        return self.atomref.index_select(0, z) + self.mean

    def contributions(self, x: Tensor, z: Tensor) -> Tensor:
        """The numbers with their constants, (N, out_channels), float64."""
        return self.with_constants(self.learned(x), z)

    def with_constants(self, learned: Tensor, z: Tensor) -> Tensor:
        """Numbers without constants (N, out_channels) with them, float64."""
        return learned.double() + self.constant(z)
