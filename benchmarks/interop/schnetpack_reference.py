"""What SchNetPack itself computes, for the tests of ``from_schnetpack``.

``python schnetpack_reference.py FOLDER`` is run by the Python of an environment with SchNetPack
2.1.1 (torch 2.4) or 1.0.1, and needs nothing of this package. It makes small models with random
weights and writes ``schnetpack_2.npz`` or ``schnetpack_1.npz``: for each case the state_dict
(float32), and for each structure the outputs of the model in float64; and, of SchNetPack 2, a whole
module as ``torch.save`` pickles it, ``schnetpack_2_model.pt``.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_masses
from ase.neighborlist import neighbor_list

FEATURES, FILTERS, GAUSSIANS, BLOCKS, CUTOFF = 8, 6, 7, 2, 4.2


def structures() -> dict[str, Atoms]:
    """A molecule about its centre of mass, another, and a crystal in a small skewed cell."""
    water = Atoms("OHH", [[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.1, -0.7572, -0.4692]])
    # The weighting that the transforms of SchNetPack use.
    masses = atomic_masses[water.numbers]
    water.positions -= masses @ water.positions / masses.sum()
    methanol = Atoms(
        "OCHHHH",
        [
            [-0.0187, 1.5256, 0.0104],
            [0.0021, -0.0039, 0.0020],
            [-0.8737, 1.8713, 0.1000],
            [1.0303, -0.3700, -0.0200],
            [-0.5000, -0.4000, 0.9000],
            [-0.5300, -0.3600, -0.8800],
        ],
    )
    cell = [[3.6, 0.2, 0.1], [0.9, 3.9, -0.3], [-0.7, 1.1, 4.2]]
    crystal = Atoms(
        "NaClOC",
        scaled_positions=[
            [0.02, 0.01, 0.03],
            [0.48, 0.53, 0.06],
            [0.51, 0.04, 0.47],
            [0, 0.5, 0.6],
        ],
        cell=cell,
        pbc=True,
    )
    return {"water": water, "methanol": methanol, "crystal": crystal}


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Weights and biases that make all parts count."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return model.eval()


def references_2() -> dict[str, tuple[torch.nn.Module, dict, list[str]]]:
    """Models of SchNetPack 2: with their hyperparameters, and the structures they are asked for."""
    from schnetpack import transform
    from schnetpack.atomistic import Atomwise, DipoleMoment, Forces, PairwiseDistances, Strain
    from schnetpack.model import NeuralNetworkPotential
    from schnetpack.nn import CosineCutoff, GaussianRBF, shifted_softplus
    from schnetpack.representation import SchNet

    def model(heads, post=(), stress=False, n_filters=FILTERS, shared=False):
        representation = SchNet(
            FEATURES,
            BLOCKS,
            GaussianRBF(GAUSSIANS, CUTOFF),
            CosineCutoff(CUTOFF),
            n_filters,
            shared_interactions=shared,
        )
        first = [Strain()] if stress else []
        made = NeuralNetworkPotential(
            representation, [*first, PairwiseDistances()], heads, [transform.CastTo64(), *post]
        )
        return randomize(made)

    def offsets(name, extensive, mean):
        made = transform.AddOffsets(name, True, True, is_extensive=extensive)
        made.mean.fill_(mean)
        made.atomref.copy_(-torch.arange(100) * 1.25)
        return made

    energy = Atomwise(FEATURES, activation=shifted_softplus, output_key="energy")
    forces = Forces(calc_stress=True)
    scale = transform.ScaleProperty("gap")
    scale.scale.fill_(2.5)
    gap = Atomwise(FEATURES, aggregation_mode="avg", output_key="gap")
    shared = Atomwise(FEATURES, n_hidden=5, activation=shifted_softplus, output_key="energy")
    ssp = {"activation": "ssp", "aggregation_mode": "sum"}
    neutral = {"activation": "silu", "predict_magnitude": False, "correct_charges": True}
    free = {"activation": "ssp", "predict_magnitude": True, "correct_charges": False}
    return {
        "energy": (
            model([energy, forces], [offsets("energy", True, -3.5)], stress=True),
            ssp,
            ["water", "methanol", "crystal"],
        ),
        "gap": (
            model([gap], [scale, offsets("gap", False, 0.75)], n_filters=None),
            {"activation": "silu", "aggregation_mode": "avg"},
            ["water", "methanol"],
        ),
        "shared": (model([shared], shared=True), ssp, ["methanol"]),
        "dipole": (
            model([DipoleMoment(FEATURES)]),
            {"head": "DipoleMoment", **neutral},
            ["water", "methanol"],
        ),
        "magnitude": (
            model(
                [
                    DipoleMoment(
                        FEATURES,
                        activation=shifted_softplus,
                        predict_magnitude=True,
                        correct_charges=False,
                    )
                ]
            ),
            {"head": "DipoleMoment", **free},
            ["water"],
        ),
    }


def inputs_2(atoms: Atoms) -> dict[str, torch.Tensor]:
    """What SchNetPack 2 is given of a structure."""
    from schnetpack import properties

    i, j, shift = neighbor_list("ijS", atoms, CUTOFF)
    return {
        properties.Z: torch.tensor(atoms.numbers),
        properties.R: torch.tensor(atoms.positions),
        properties.cell: torch.tensor(atoms.cell.array)[None],
        properties.pbc: torch.tensor(atoms.pbc),
        properties.offsets: torch.tensor(shift @ atoms.cell.array),
        properties.idx_i: torch.tensor(i),
        properties.idx_j: torch.tensor(j),
        properties.idx_m: torch.zeros(len(atoms), dtype=torch.long),
        properties.n_atoms: torch.tensor([len(atoms)]),
    }


def references_1() -> dict[str, tuple[torch.nn.Module, dict, list[str]]]:
    """Models of SchNetPack 1, whose layout is that of the QM9 models of 2018."""
    from schnetpack.atomistic import AtomisticModel, Atomwise, DipoleMoment
    from schnetpack.representation import SchNet

    def model(head):
        net = SchNet(FEATURES, FILTERS, BLOCKS, CUTOFF, GAUSSIANS)
        made = randomize(AtomisticModel(net, [head]))
        with torch.no_grad():
            net.embedding.weight[0] = 0
        return made

    numbers = {"mean": torch.tensor([-3.5]), "stddev": torch.tensor([2.5])}
    atomref = -1.25 * np.arange(100.0)[:, None]
    return {
        "energy": (
            model(Atomwise(FEATURES, property="energy", atomref=atomref, **numbers)),
            {"aggregation_mode": "sum", "atomref": True},
            ["water", "methanol"],
        ),
        "homo": (
            model(Atomwise(FEATURES, aggregation_mode="avg", property="homo", **numbers)),
            {"aggregation_mode": "avg", "atomref": False},
            ["methanol"],
        ),
        "dipole_moment": (
            model(DipoleMoment(FEATURES, property="dipole_moment", predict_magnitude=True)),
            {"aggregation_mode": "sum", "atomref": False},
            ["water"],
        ),
    }


def inputs_1(atoms: Atoms) -> dict[str, torch.Tensor]:
    """What SchNetPack 1 is given of a molecule: all pairs."""
    from schnetpack import Properties

    n = len(atoms)
    others = torch.tensor([[j for j in range(n) if j != i] for i in range(n)])
    return {
        Properties.Z: torch.tensor(atoms.numbers)[None],
        Properties.R: torch.tensor(atoms.positions)[None],
        Properties.cell: torch.zeros(1, 3, 3, dtype=torch.float64),
        Properties.cell_offset: torch.zeros(1, n, n - 1, 3, dtype=torch.float64),
        Properties.neighbors: others[None],
        Properties.neighbor_mask: torch.ones(1, n, n - 1, dtype=torch.float64),
        Properties.atom_mask: torch.ones(1, n, dtype=torch.float64),
    }


def record(folder: Path) -> None:
    """Write what the installed SchNetPack computes."""
    torch.manual_seed(0)
    try:
        installed = version("schnetpack")
    except ImportError:
        installed = "1"
    second = hasattr(__import__("schnetpack"), "transform")
    references, inputs = (references_2, inputs_2) if second else (references_1, inputs_1)
    known = structures()
    facts = {"schnetpack": installed, "torch": torch.__version__, "cases": {}}
    arrays = {}
    for case, (model, hyperparameters, names) in references().items():
        facts["cases"][case] = hyperparameters
        for name, value in model.state_dict().items():
            arrays[f"{case}/state/{name}"] = value.numpy()
        if second and case == "gap":
            torch.save(model, folder / "schnetpack_2_model.pt")
        model.double()
        for name in names:
            for key, value in model(inputs(known[name])).items():
                arrays[f"{case}/{name}/{key}"] = value.detach().double().numpy()
    for name, atoms in known.items():
        for part in ("numbers", "positions", "pbc"):
            arrays[f"structures/{name}/{part}"] = getattr(atoms, part)
        arrays[f"structures/{name}/cell"] = atoms.cell.array
    arrays["facts"] = np.array(json.dumps(facts))
    np.savez_compressed(folder / f"schnetpack_{2 if second else 1}.npz", **arrays)


if __name__ == "__main__":
    record(Path(sys.argv[1]))
