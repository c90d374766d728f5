"""Which head a model gets: how features of atoms become a property."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from pyg_schnet.nn.dipole import Dipole
from pyg_schnet.nn.head import Head
from pyg_schnet.nn.polarizability import Polarizability
from pyg_schnet.nn.readout import Atomwise
from pyg_schnet.nn.set2set import Set2SetPooling
from pyg_schnet.nn.softmax import SoftmaxPooling
from pyg_schnet.nn.spatial_extent import SpatialExtent

HEADS: dict[str, type[Head]] = {
    "atomwise": Atomwise,
    "dipole": Dipole,
    "spatial_extent": SpatialExtent,
    "polarizability": Polarizability,
    "softmax": SoftmaxPooling,
    "set2set": Set2SetPooling,
}
"""Heads by name."""

_OF_THE_MODEL = ("self", "in_channels", "out_channels", "readout", "mean", "std", "atomref")


def head_name(head: str | None, dipole: bool) -> str:
    """The head that is meant.

    Args:
        head: A name among :data:`HEADS`; None is "dipole" with ``dipole``, else "atomwise".
        dipole: PyG's word for the dipole moment.

    Raises:
        ValueError: If there is no such head, or the two contradict each other.
    """
    if head is None:
        return "dipole" if dipole else "atomwise"
    if head not in HEADS:
        known = ", ".join(repr(name) for name in HEADS)
        raise ValueError(f"head must be one of {known}, got {head!r}.")
    if dipole and head != "dipole":
        raise ValueError(
            f"dipole=True asks for head='dipole', got head={head!r}; give one of them."
        )
    return head


def build_head(
    name: str,
    in_channels: int,
    out_channels: int,
    cutoff: float,
    readout: str | Sequence[str],
    constants: Mapping[str, float | Tensor | None],
    options: Mapping[str, Any],
) -> Head:
    """Make a head.

    Args:
        name: Among :data:`HEADS`.
        in_channels: Features of an atom.
        out_channels: Properties predicted together, by the heads that can.
        cutoff: Å, of pairs where a head has them.
        readout: Of the atomwise head; others have no use for it.
        constants: mean, std and atomref; a dipole has no use for them, as in PyG.
        options: Arguments of the head's constructor that are its own.

    Raises:
        ValueError: If the head has no such option, predicts one property only or has no such
            constants; and as the head.
    """
    kind = HEADS[name]
    known = inspect.signature(kind.__init__).parameters
    own = [option for option in known if option not in _OF_THE_MODEL]
    for option in options:
        if option not in own:
            raise ValueError(
                f"head_options of head={name!r} may hold {', '.join(own)}; got {option!r}."
            )
    given: dict[str, Any] = dict(options)
    if "out_channels" in known:
        given["out_channels"] = out_channels
    elif out_channels != 1:
        raise ValueError(f"head={name!r} predicts one property; got out_channels={out_channels}.")
    if "readout" in known:
        given["readout"] = readout
    if "mean" in known:
        given |= constants
    elif name != "dipole" and any(value is not None for value in constants.values()):
        raise ValueError(
            f"mean, std and atomref are no constants of head={name!r}; set its own with "
            "model.readout.fit or model.readout.set_statistics."
        )
    if given.get("tensor", False):
        given.setdefault("cutoff", cutoff)
    return kind(in_channels, **given)
