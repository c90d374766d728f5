"""QM9 from molecule after molecule to one tensor per property, in the units of the data set."""

from array import array
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.datasets.qm9_properties import ATOM_REFERENCES, ATOMIZATION, SCALARS
from pyg_schnet.datasets.qm9_raw import Molecule
from pyg_schnet.datasets.storage import Strings


class Columns(NamedTuple):
    """All molecules end to end."""

    tensors: dict[str, Tensor]
    smiles: Strings
    bounds: Tensor  # (M + 1,) first atom of each molecule, and the number of all


def to_columns(molecules: Iterable[Molecule]) -> Columns:
    """Joins molecules into tensors, ordered by number, in the units of :data:`SCALARS`.

    Returns:
        ``idx`` (M,) int64; ``z`` (N,) int64; ``pos`` (N, 3) float32, Å; ``charges`` (N,) float32,
        e; ``polarizability`` (M, 3, 3) float64, Bohr^3; each property (M,) float64.

    Raises:
        ValueError: if a molecule comes twice.
    """
    numbers, sizes, z = array("q"), array("q"), array("b")
    pos, charges, scalars, tensor6 = array("d"), array("d"), array("d"), array("d")
    smiles: list[str] = []
    for molecule in molecules:
        numbers.append(molecule.number)
        sizes.append(len(molecule.z))
        z.extend(molecule.z)
        pos.extend(molecule.pos)
        charges.extend(molecule.charges)
        scalars.extend(molecule.scalars)
        tensor6.extend(molecule.polarizability)
        smiles.append(molecule.smiles)

    order = np.argsort(np.asarray(numbers), kind="stable")
    number = np.asarray(numbers)[order]
    twice = number[1:][number[1:] == number[:-1]]
    if twice.size:
        raise ValueError(f"molecule {twice[0]} comes more than once: remove one copy")
    atoms, bounds = _atoms_in_order(np.asarray(sizes), order)
    by_atom = {
        "z": np.asarray(z)[atoms].astype(np.int64),
        "pos": np.asarray(pos).reshape(-1, 3)[atoms].astype(np.float32),
        "charges": np.asarray(charges)[atoms].astype(np.float32),
    }
    table = np.asarray(scalars).reshape(-1, len(SCALARS))[order]
    raw = dict(zip(SCALARS, table.T, strict=True))
    properties = {name: raw[name] * SCALARS[name].factor for name in SCALARS}
    for name, info in ATOMIZATION.items():
        total = name.removesuffix("_atom")
        reference = np.zeros(10)
        reference[list(ATOM_REFERENCES[total])] = list(ATOM_REFERENCES[total].values())
        separate = np.add.reduceat(reference[by_atom["z"]], bounds[:-1])
        properties[name] = (raw[total] - separate) * info.factor
    xx, xy, yy, xz, yz, zz = np.asarray(tensor6).reshape(-1, 6)[order].T
    full = np.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], axis=1).reshape(-1, 3, 3)
    arrays = {"idx": number - 1, **by_atom, "polarizability": full, **properties}
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
    ordered = Strings.pack([smiles[k] for k in order])
    return Columns(tensors, ordered, torch.from_numpy(bounds))


def _atoms_in_order(sizes: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the atoms when molecules are put in ``order``; and the bounds of each after it."""
    starts = np.cumsum(sizes) - sizes
    bounds = np.concatenate([[0], np.cumsum(sizes[order])])
    within = np.arange(bounds[-1]) - np.repeat(bounds[:-1], sizes[order])
    return np.repeat(starts[order], sizes[order]) + within, bounds
