"""Cutoff functions: how a neighbour's influence ends."""

import math

import torch
from torch import Tensor, nn


def checked_cutoff(cutoff: float) -> float:
    """The cutoff as it is, if it is a distance.

    Raises:
        ValueError: If ``cutoff`` is not positive and finite.
    """
    if not (math.isfinite(cutoff) and cutoff > 0):
        raise ValueError(f"cutoff must be a positive, finite distance in Å, got {cutoff}.")
    return float(cutoff)


class CosineCutoff(nn.Module):
    r"""Falls smoothly from 1 at 0 to 0, with zero slope, at the cutoff.

    .. math::
        f(d) = \tfrac{1}{2}\left(\cos\frac{\pi d}{r_c} + 1\right) \; [d < r_c]

    Behler, J. Chem. Phys. 134, 074106 (2011); used for SchNet in Schütt et al., "Learning
    Representations of Molecules and Materials with Atomistic Neural Networks" (2020). PyG's SchNet
    lacks the bracket: there the cosine rises again for given edges beyond the cutoff.

    Args:
        cutoff: :math:`r_c`, Å.

    Raises:
        ValueError: If ``cutoff`` is not positive and finite.

    Example:
        >>> CosineCutoff(5.0)(torch.tensor([0.0, 2.5, 5.0, 9.0]))
        tensor([1.0000, 0.5000, 0.0000, 0.0000])
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = checked_cutoff(cutoff)

    def forward(self, distance: Tensor) -> Tensor:
        """Weights of ``distance``, any shape, Å."""
        # At the clamped end the cosine is 0 with slope 0; the clamp also stops its gradient there.
        inside = distance.clamp(max=self.cutoff)
        return 0.5 * (torch.cos(inside * (math.pi / self.cutoff)) + 1.0)

    def extra_repr(self) -> str:
        """The cutoff."""
        return f"cutoff={self.cutoff:g}"


class HardCutoff(nn.Module):
    r"""One inside the cutoff, zero at and beyond it: a step, so the energy is not continuous.

    .. math::
        f(d) = [d < r_c]

    Schütt et al., J. Chem. Phys. 148, 241722 (2018), for bulk crystals.

    Args:
        cutoff: :math:`r_c`, Å.

    Raises:
        ValueError: If ``cutoff`` is not positive and finite.

    Example:
        >>> HardCutoff(5.0)(torch.tensor([4.9, 5.0]))
        tensor([1., 0.])
    """

    def __init__(self, cutoff: float) -> None:
        super().__init__()
        self.cutoff = checked_cutoff(cutoff)

    def forward(self, distance: Tensor) -> Tensor:
        """Weights of ``distance``, any shape, Å."""
        return (distance < self.cutoff).to(distance.dtype)

    def extra_repr(self) -> str:
        """The cutoff."""
        return f"cutoff={self.cutoff:g}"


class NoCutoff(nn.Module):
    r"""One everywhere: the papers' molecules, where every pair of atoms interacts.

    .. math::
        f(d) = 1

    Schütt et al., NeurIPS 2017, section 4.1.

    Example:
        >>> NoCutoff()(torch.tensor([4.9, 50.0]))
        tensor([1., 1.])
    """

    def forward(self, distance: Tensor) -> Tensor:
        """Ones like ``distance``."""
        return torch.ones_like(distance)


CUTOFFS: dict[str, type[nn.Module]] = {
    "cosine": CosineCutoff,
    "hard": HardCutoff,
    "none": NoCutoff,
}


def cutoff_function(name: str, cutoff: float) -> nn.Module:
    """The cutoff function called ``name``: one of those above.

    Args:
        name: "cosine", "hard" or "none".
        cutoff: Å; not used by "none".

    Raises:
        ValueError: If the name is another one, or ``cutoff`` is not positive and finite.

    Example:
        >>> cutoff_function("cosine", 5.0)
        CosineCutoff(cutoff=5)
    """
    if name not in CUTOFFS:
        raise ValueError(f"cutoff_fn must be 'cosine', 'hard' or 'none', got {name!r}.")
    return NoCutoff() if name == "none" else CUTOFFS[name](cutoff)
