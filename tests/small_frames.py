"""Frames of ethanol with energies and forces of a spring between every two atoms."""

from pathlib import Path

import numpy as np
import torch
from ase.build import molecule

from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.units import KCAL_PER_MOL

TOTAL = -4215.0  # eV, about that of ethanol
STIFFNESS = 2.0  # eV/Å^2


def springs(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """``z`` (9,), positions (count, 9, 3) in Å, energies (count,) in eV, forces in eV/Å."""
    rng = np.random.default_rng(seed)
    atoms = molecule("CH3CH2OH")
    pos = atoms.positions + rng.normal(0.0, 0.05, (count, len(atoms), 3))
    rest = atoms.get_all_distances()
    vectors = pos[:, :, None] - pos[:, None]
    distance = np.linalg.norm(vectors, axis=-1)
    stretch = distance - rest
    energy = TOTAL + 0.25 * STIFFNESS * (stretch**2).sum((1, 2))
    unit = vectors / np.where(distance, distance, 1.0)[..., None]
    forces = -STIFFNESS * (stretch[..., None] * unit).sum(2)
    return atoms.numbers, pos, energy, forces


def spring_table(
    count: int, seed: int = 0, dtype: torch.dtype = torch.float32, shift: float = 0.0
) -> MoleculeTable:
    """The frames as a table; ``shift`` (eV) is added to each energy."""
    z, pos, energy, forces = springs(count, seed)
    return MoleculeTable(
        torch.from_numpy(np.tile(z.astype(np.int64), count)),
        torch.from_numpy(pos.reshape(-1, 3)).to(dtype),
        torch.arange(count + 1) * len(z),
        torch.from_numpy(energy + shift)[:, None],
        torch.from_numpy(forces.reshape(-1, 3)).to(dtype),
    )


def write_md17(path: Path, count: int = 60) -> Path:
    """Write the frames as MD17's files are: kcal/mol and kcal/mol/Å."""
    z, pos, energy, forces = springs(count)
    np.savez(
        path,
        z=z.astype(np.uint8),
        R=pos,
        E=energy[:, None] / KCAL_PER_MOL,
        F=forces / KCAL_PER_MOL,
    )
    return path
