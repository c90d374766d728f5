"""A model of SchNetPack in plain terms, and ours made of it."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.models import SchNet
from pyg_schnet.nn.readout import MAX_ATOMIC_NUMBER

State = dict[str, Tensor]


@dataclass
class Offsets:
    """What SchNetPack adds to and multiplies a property with, after the head."""

    scale: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.float64))
    mean: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    atomref: Tensor = field(
        default_factory=lambda: torch.zeros(MAX_ATOMIC_NUMBER + 1, dtype=torch.float64)
    )

    def multiply(self, factor: Tensor) -> None:
        """Take a factor of all so far."""
        number = factor.detach().double().reshape(())
        self.scale, self.mean = self.scale * number, self.mean * number
        self.atomref = self.atomref * number

    def add(self, mean: Tensor | None, atomref: Tensor | None) -> None:
        """Take offsets per atom."""
        if mean is not None:
            self.mean = self.mean + mean.detach().double().reshape(())
        if atomref is not None:
            self.atomref = self.atomref + elements(atomref.detach().double().reshape(-1))

    def is_zero(self) -> bool:
        """Whether nothing is added."""
        return not (bool(self.mean.any()) or bool(self.atomref.any()))


@dataclass
class Description:
    """A model of SchNetPack in plain terms: tensors under our names, and what tensors do not tell.

    Attributes:
        state: Layers under the names of :class:`~pyg_schnet.SchNet`, without the grid.
        cutoff: Å.
        cutoff_fn: "cosine", "hard" or "none".
        offset: Centres of the Gaussians, Å, (G,).
        width: Their widths, Å, (G,).
        head: "Atomwise" or "DipoleMoment".
        activation: Of the head: "ssp" or "silu".
        aggregation: "add" or "mean".
        magnitude: Of a dipole: its length only.
        neutral: Of a dipole: charges corrected to add up to zero.
        offsets: What is added to an atomwise property.
    """

    state: State
    cutoff: float
    offset: Tensor
    width: Tensor
    cutoff_fn: str = "cosine"
    head: str = "Atomwise"
    activation: str = "ssp"
    aggregation: str = "add"
    magnitude: bool = False
    neutral: bool = False
    offsets: Offsets = field(default_factory=Offsets)


def build(known: Description, filters: str = "auto") -> SchNet:
    """The model that a description is of, in evaluation mode.

    Args:
        known: The description.
        filters: As in :class:`~pyg_schnet.SchNet`.

    Raises:
        ValueError: If the grid of Gaussians is not uniform, or elements lie beyond the table.
    """
    state = dict(known.state)
    offset, width = known.offset.detach().double(), known.width.detach().double()
    steps = offset.diff()
    if len(steps) < 1 or (steps - steps[0]).abs().max() > 1e-5 or width.unique().numel() != 1:
        raise ValueError(
            "The Gaussians must stand on a uniform grid and be of one width; these have been "
            "trained."
        )
    state["embedding.weight"] = elements(state["embedding.weight"].clone())
    state["embedding.weight"][0] = 0.0
    dipole = known.head == "DipoleMoment"
    hidden, features = state["readout.lin1.weight"].shape
    options: dict[str, Any] = {} if hidden == features // 2 else {"hidden_channels": hidden}
    if known.activation != "ssp":
        options["activation"] = known.activation
    if dipole:
        options |= {"magnitude": known.magnitude, "neutral": known.neutral}
    made = SchNet(
        hidden_channels=features,
        num_filters=state["interactions.0.conv.lin1.weight"].size(0),
        num_interactions=sum(name.endswith(".conv.lin1.weight") for name in state),
        num_gaussians=len(offset),
        cutoff=known.cutoff,
        readout=known.aggregation,
        head="dipole" if dipole else "atomwise",
        head_options=options,
        out_channels=state["readout.lin2.weight"].size(0),
        filters=filters,
        cutoff_fn=known.cutoff_fn,
    ).to(state["embedding.weight"].dtype)
    own = made.state_dict()
    own["distance_expansion.offset"] = offset
    own["distance_expansion.gamma"] = 0.5 / width[0] ** 2
    if not dipole:
        one = own["readout.mean"].shape
        own["readout.mean"] = known.offsets.mean.expand(one)
        own["readout.std"] = known.offsets.scale.expand(one)
        own["readout.atomref"] = known.offsets.atomref[:, None].expand_as(own["readout.atomref"])
    try:
        made.load_state_dict(own | state)
    except RuntimeError as error:
        raise ValueError(f"The weights are not those of one SchNet: {error}") from error
    return made.eval()


def elements(rows: Tensor) -> Tensor:
    """A table of elements from 0 to 99, cut or filled up with zeros.

    Raises:
        ValueError: If it has values beyond that.
    """
    size = MAX_ATOMIC_NUMBER + 1
    if len(rows) > size + 1:
        raise ValueError(f"Elements beyond {MAX_ATOMIC_NUMBER} are not known, got {len(rows)}.")
    table = rows.new_zeros(size, *rows.shape[1:])
    table[: len(rows)] = rows[:size]
    return table


__all__ = ["Description", "Offsets", "State", "build", "elements"]
