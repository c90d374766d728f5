"""The stress of a crystal: learned with energies and forces, and used to relax the cell."""

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential, SchNet
from pyg_schnet.simulation import Calculator, atoms_to_data, relax


def labelled(atoms: Atoms) -> Data:
    """A structure with what ASE's effective medium theory says of it."""
    data = atoms_to_data(atoms)
    atoms.calc = EMT()
    data.energy = torch.tensor([atoms.get_potential_energy()])
    data.forces = torch.tensor(atoms.get_forces(), dtype=torch.float32)
    data.stress = torch.tensor(atoms.get_stress(voigt=False), dtype=torch.float32)[None]
    return data


def main(steps: int = 120) -> tuple[float, float]:
    """Train; return the lattice constant of copper, Å, and the largest stress left, eV/Å³."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(24):
        atoms = bulk("Cu", a=rng.uniform(3.4, 3.85), cubic=True)
        strain = np.eye(3) + 0.02 * rng.standard_normal((3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.positions += 0.08 * rng.standard_normal((4, 3))
        frames.append(labelled(atoms))
    batch = Batch.from_data_list(frames)
    potential = Potential(SchNet(16, 16, 2, 16, cutoff=5.0, seed=0), stress=True)
    optimizer = torch.optim.Adam(potential.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-2, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        found = potential(batch)
        # Weights that make the three of one size: eV², (eV/Å)² and (eV/Å³)².
        loss = (found["energy"] - batch.energy).square().mean()
        loss = loss + (found["forces"] - batch.forces).square().mean()
        loss = loss + 1000 * (found["stress"] - batch.stress).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step()
    stretched = bulk("Cu", a=3.75)  # one atom, whose neighbours are its own images
    result = relax(Calculator(potential), stretched, 1e-4, cell=True, progress=False)
    stress = float(np.abs(result.atoms.get_stress()).max())
    constant = (4 * result.atoms.get_volume()) ** (1 / 3)
    print(
        f"a = {constant:.3f} Å (EMT: 3.590) after {result.steps} steps; stress {stress:.0e} eV/Å³"
    )
    return constant, stress


if __name__ == "__main__":
    main()
