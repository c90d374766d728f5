"""What float32 and tabulated filters cost in energies, forces, stress and frequencies.

The reference is the same model with the same weights in float64, with every filter network
evaluated on every edge and derivatives by autograd. An entry is the largest error over five
structures with atoms moved by 0.05 Å. Frequencies are of the structure at rest: from the exact
Hessian of the tabulated model, and from differences of the forces of the frozen ones.
"""

import argparse
import copy
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from pyg_schnet import Potential, SchNet, pretrained
from pyg_schnet.simulation import Calculator, hessian, hessian_by_differences, normal_modes, relax
from pyg_schnet.simulation.predict import atoms_to_data

STRUCTURES = 5
_RATTLE = 0.05  # Å


class Case(NamedTuple):
    """A structure and a model of it.

    Attributes:
        structure: Its name.
        atoms: The structure.
        model: Words for the model.
        network: In float32.
        modes: Whether its Hessian is small enough.
    """

    structure: str
    atoms: Atoms
    model: str
    network: SchNet
    modes: bool


def cases() -> Iterator[Case]:
    """Molecules with trained models, then molecules and crystals with untrained ones by size."""
    for name, formula in {"ethanol": "CH3CH2OH", "benzene": "C6H6"}.items():
        potential = pretrained(f"md17-{name}")
        atoms = relax(potential, molecule(formula), 1e-4, progress=False).atoms
        yield Case(name, atoms, "trained, T=3 F=64", _network(potential), True)
    aspirin = pretrained("md17-aspirin")
    yield Case("aspirin", _aspirin(), "trained, T=3 F=64", _network(aspirin), False)
    crystals = {
        "silicon, 8 atoms": bulk("Si", cubic=True),
        "NaCl, 64 atoms": bulk("NaCl", "rocksalt", a=5.64, cubic=True) * 2,
    }
    for depth, width in ((1, 16), (3, 64), (6, 128), (6, 256)):
        for name, atoms in {"ethanol": molecule("CH3CH2OH"), **crystals}.items():
            network = SchNet(width, width, depth, 50, 5.0, seed=0)
            small = len(atoms) < 10 and width < 256
            yield Case(name, atoms, f"untrained, T={depth} F={width}", network, small)


def _aspirin() -> Atoms:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    found = Chem.AddHs(Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O"))
    AllChem.EmbedMolecule(found, randomSeed=1)
    AllChem.MMFFOptimizeMolecule(found)
    numbers = [atom.GetAtomicNum() for atom in found.GetAtoms()]
    return Atoms(numbers, found.GetConformer().GetPositions())


def _network(potential: Any) -> SchNet:
    return potential.model


def variant(network: SchNet, filters: str, dtype: torch.dtype) -> SchNet:
    """A copy of a model with other filters, in another dtype."""
    made = SchNet(**{**network.config, "filters": filters}).to(dtype)
    made.load_state_dict(copy.deepcopy(network).to(dtype).state_dict())
    return made.eval().requires_grad_(False)


def evaluated(network: SchNet, atoms: Atoms, frozen: bool) -> dict[str, np.ndarray]:
    """Energy, forces and, of crystals, stress, in float64."""
    stress = bool(atoms.pbc.any())
    potential: Any = Potential(network, stress=stress).eval()
    dtype = network.embedding.weight.dtype
    call: Callable[..., dict[str, torch.Tensor]] = potential.freeze() if frozen else potential
    found = call(atoms_to_data(atoms, dtype))
    return {name: value.double().numpy() for name, value in found.items()}


def frequencies(network: SchNet, atoms: Atoms, frozen: bool) -> np.ndarray:
    """Of the structure as it is, cm⁻¹, ascending; of a frozen model by differences of forces."""
    if not frozen:
        second = hessian(network, atoms_to_data(atoms, torch.float64)).numpy()
    else:
        second = hessian_by_differences(Calculator(network), atoms, progress=False).numpy()
    free = not atoms.pbc.any()
    return normal_modes(second, atoms.get_masses(), atoms.positions, rotations=free)[0]


VARIANTS: dict[str, tuple[str, torch.dtype, bool]] = {
    "float64, tabulated": ("tabulated", torch.float64, False),
    "float64, frozen": ("exact", torch.float64, True),
    "float32, exact": ("exact", torch.float32, False),
    "float32, frozen": ("auto", torch.float32, True),
}


def compare(case: Case) -> Iterator[dict[str, Any]]:
    """A row for each way of evaluation."""
    reference = variant(case.network, "exact", torch.float64)
    moved = []
    for seed in range(STRUCTURES):
        atoms = case.atoms.copy()
        atoms.rattle(_RATTLE, seed=seed)
        # As float32 has them, so that all see the same structure.
        atoms.positions = atoms.positions.astype(np.float32)
        atoms.set_cell(atoms.cell.array.astype(np.float32))
        moved.append(atoms)
    wanted = [evaluated(reference, atoms, False) for atoms in moved]
    modes = frequencies(reference, case.atoms, False) if case.modes else None
    size = len(case.atoms)
    forces = np.sqrt(np.mean([np.square(w["forces"]).mean() for w in wanted]))
    for name, (filters, dtype, frozen) in VARIANTS.items():
        network = variant(case.network, filters, dtype)
        found = [evaluated(network, atoms, frozen) for atoms in moved]
        error = {
            key: max(
                float(np.abs(f[key] - w[key]).max()) for f, w in zip(found, wanted, strict=True)
            )
            for key in wanted[0]
        }
        row: dict[str, Any] = {
            "structure": case.structure,
            "model": case.model,
            "arithmetic": name,
            "atoms": size,
            "energy_eV": float(wanted[0]["energy"][0]),
            "energy_error_ueV_per_atom": 1e6 * error["energy"] / size,
            "rms_force_eV_per_A": float(forces),
            "force_error_eV_per_A": error["forces"],
            "force_error_relative": error["forces"] / float(forces),
        }
        if "stress" in error:
            largest = max(float(np.abs(w["stress"]).max()) for w in wanted)
            row["stress_error_eV_per_A3"] = error["stress"]
            row["stress_error_relative"] = error["stress"] / largest
        if modes is not None and name != "float32, exact":
            differ = np.abs(frequencies(network, case.atoms, frozen) - modes)
            row["largest_frequency_per_cm"] = float(modes.max())
            row["frequency_error_per_cm"] = float(differ.max())
        yield row


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = [
        "| structure | model | arithmetic | energy, µeV/atom | forces, eV/Å | of their rms "
        "| stress, of the largest | frequencies, cm⁻¹ |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = [row["structure"], row["model"], row["arithmetic"]]
        for key in (
            "energy_error_ueV_per_atom",
            "force_error_eV_per_A",
            "force_error_relative",
            "stress_error_relative",
            "frequency_error_per_cm",
        ):
            cells.append(f"{row[key]:.1e}" if key in row else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and write precision.json and precision.md.

    Args:
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, help="folder for the record")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for case in cases():
        rows += compare(case)
        print(table(rows[-len(VARIANTS) :]), flush=True)
    if options.output:
        record = {
            "machine": {
                "cores": os.cpu_count(),
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
            "reference": "float64, exact filters, autograd",
            "structures": STRUCTURES,
            "rows": rows,
        }
        (options.output / "precision.json").write_text(json.dumps(record, indent=1) + "\n")
        head = f"# float32 against float64\n\n{(__doc__ or '').strip()}\n\n"
        (options.output / "precision.md").write_text(f"{head}{table(rows)}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
