"""What an analysis is given: a model, a structure, elements; each in one form."""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from pyg_schnet.models.networks import Network
from pyg_schnet.models.potential import Potential
from pyg_schnet.nn.head import MAX_ATOMIC_NUMBER


def network_of(model: nn.Module) -> Network:
    """The network itself, where it is wrapped as a potential.

    Args:
        model: A :class:`~pyg_schnet.SchNet`, a :class:`~pyg_schnet.DTNN`, or a
            :class:`~pyg_schnet.Potential` of one.

    Raises:
        ValueError: If it is none of these.

    Example:
        >>> from pyg_schnet import SchNet
        >>> model = SchNet(16, 16, 1, 10, 5.0)
        >>> network_of(Potential(model)) is model
        True
    """
    network = model.model if isinstance(model, Potential) else model
    if not isinstance(network, Network):
        raise ValueError(
            "This analysis looks into one SchNet or DTNN, or a Potential of one, but got a "
            f"{type(network).__name__}; of an ensemble give its members one by one."
        )
    return network


def unit_of(model: nn.Module) -> str:
    """Unit of what the model predicts, as its file says; eV where nothing is said."""
    return str((getattr(model, "info", None) or {}).get("unit", "eV"))


def atomic_number(element: int | str) -> int:
    """The atomic number of an element.

    Args:
        element: A number, or a symbol such as "C".

    Raises:
        ValueError: If there is no such element among those that models know, 1 to 99.

    Example:
        >>> atomic_number("C"), atomic_number(8)
        (6, 8)
    """
    if isinstance(element, str):
        from ase.data import atomic_numbers

        known = atomic_numbers.get(element.strip().capitalize(), 0)
        number = int(element) if element.strip().isdigit() else int(known)
    else:
        number = int(element)
    if not 1 <= number <= MAX_ATOMIC_NUMBER:
        raise ValueError(
            f"{element!r} is no element that models know; give a symbol such as 'C', or an atomic "
            f"number in 1..{MAX_ATOMIC_NUMBER}."
        )
    return number


def symbol_of(number: int) -> str:
    """The symbol of an element, such as "C" for 6."""
    from ase.data import chemical_symbols

    return str(chemical_symbols[number])


@dataclass(frozen=True)
class Structure:
    """One molecule or crystal as models take it.

    Attributes:
        z: (N,) atomic numbers.
        pos: (N, 3) positions, Å, in the dtype of the model.
        cell: (3, 3) lattice vectors as rows, Å; None for molecules.
        pbc: (3,) booleans; None for molecules.
    """

    z: Tensor
    pos: Tensor
    cell: Tensor | None = None
    pbc: Tensor | None = None

    @classmethod
    def of(cls, structure: Any, model: nn.Module | None = None) -> "Structure":
        """Read a structure.

        Args:
            structure: PyG's ``Data`` with ``z``, ``pos`` and perhaps ``cell`` and ``pbc``, ASE's
                ``Atoms``, or a :class:`Structure`.
            model: On whose device and in whose dtype it shall be; None for float64 on the CPU.

        Raises:
            ValueError: If it is none of these, or several structures at once.

        Example:
            >>> from ase.build import bulk
            >>> Structure.of(bulk("NaCl", "rocksalt", 5.64)).z
            tensor([11, 17])
        """
        like = None if model is None else next(model.parameters())
        device = None if like is None else like.device
        dtype = torch.float64 if like is None else like.dtype
        cell = pbc = None
        if hasattr(structure, "get_atomic_numbers"):
            z = torch.as_tensor(structure.get_atomic_numbers(), dtype=torch.long)
            pos = torch.as_tensor(structure.get_positions())
            if structure.pbc.any():
                cell = torch.as_tensor(structure.cell.array)
                pbc = torch.as_tensor(structure.pbc)
        elif getattr(structure, "z", None) is not None and hasattr(structure, "pos"):
            z, pos = structure.z, structure.pos
            cell, pbc = getattr(structure, "cell", None), getattr(structure, "pbc", None)
            if getattr(structure, "batch", None) is not None and bool(structure.batch.any()):
                raise ValueError(
                    "structure is a batch of several; give them one by one, with batch[k]."
                )
        else:
            raise ValueError(
                "structure must be a Data with z and pos, or ASE's Atoms, got a "
                f"{type(structure).__name__}."
            )
        if cell is not None:
            cell = cell.reshape(-1, 3, 3)
            if cell.size(0) != 1:
                raise ValueError(f"structure must have one cell, got {cell.size(0)}.")
            cell = cell[0].to(device, dtype)
            every = torch.ones(3, dtype=torch.bool)
            pbc = every if pbc is None else torch.as_tensor(pbc).reshape(3).bool()
            if not bool(pbc.any()):
                cell = pbc = None
        return cls(
            z.to(device),
            pos.detach().to(device, dtype),
            cell,
            None if cell is None else cast(Tensor, pbc).to(device),
        )

    @property
    def periodic(self) -> Tensor:
        """Lattice vectors along which it repeats, (K, 3), Å; (0, 3) of a molecule."""
        if self.cell is None or self.pbc is None:
            return self.pos.new_zeros(0, 3)
        return self.cell[self.pbc]


def images_near(
    pos: Tensor, lattice: Tensor, low: Tensor, high: Tensor, reach: float
) -> tuple[Tensor, Tensor]:
    r"""Atoms and images of atoms near a box.

    Image :math:`r_j + s A` can lie within :math:`r` of a point with lattice coordinates f only if

    .. math::
        |f_k - (f_j)_k - s_k| \le r\,|b_k|, \qquad b_k \cdot a_l = \delta_{kl}

    Args:
        pos: (N, 3) positions, Å.
        lattice: (K, 3) vectors along which they repeat, K = 0..3, Å.
        low: (3,) corner of the box, Å.
        high: (3,) the opposite corner.
        reach: Å; images further from the box than this are left out.

    Returns:
        Positions (M, 3), and the atoms (M,) that they are images of.

    Example:
        >>> pos, lattice = torch.zeros(1, 3), torch.tensor([[2.0, 0.0, 0.0]])
        >>> found, _ = images_near(pos, lattice, torch.zeros(3), torch.zeros(3), 2.5)
        >>> sorted(found[:, 0].tolist())
        [-2.0, 0.0, 2.0]
    """
    atoms = torch.arange(pos.size(0), device=pos.device)
    if lattice.size(0):
        inverse = torch.linalg.pinv(lattice)  # [3, K]
        steps = torch.tensor([0.0, 1.0], dtype=pos.dtype, device=pos.device)
        corners = low + torch.cartesian_prod(steps, steps, steps) * (high - low)  # [8, 3]
        box, own = corners @ inverse, pos @ inverse
        margin = reach * torch.linalg.vector_norm(inverse, dim=0)  # [K]
        first = torch.ceil(box.amin(0) - own.amax(0) - margin).long().tolist()
        last = torch.floor(box.amax(0) - own.amin(0) + margin).long().tolist()
        ends = zip(first, last, strict=True)
        ranges = [torch.arange(a, max(a, b + 1), device=pos.device) for a, b in ends]
        shifts = torch.cartesian_prod(*ranges).view(-1, lattice.size(0))  # [S, K]
        pos = (pos + (shifts.to(pos.dtype) @ lattice).unsqueeze(1)).view(-1, 3)
        atoms = atoms.repeat(shifts.size(0))
    outside = torch.maximum(low - pos, pos - high).clamp(min=0)  # [M, 3]
    near = torch.linalg.vector_norm(outside, dim=-1) <= reach
    return pos[near], atoms[near]
