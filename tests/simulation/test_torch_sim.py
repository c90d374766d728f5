"""torch-sim's own runners with potentials of this package, against ASE with the calculator."""

import importlib.util

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk, molecule
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

from pyg_schnet import DTNN, SchNet
from pyg_schnet.simulation import Calculator, torch_sim_model

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("torch_sim") is None,
        reason="torch-sim-atomistic is not installed",
    ),
    # Of its own units and data types.
    pytest.mark.filterwarnings("ignore"),
]

ETHANOL = "md17-ethanol"
CPU = torch.device("cpu")


def small_model(kind=SchNet, **options):
    sizes = {"hidden_channels": 12, "num_interactions": 2, "num_gaussians": 9, "cutoff": 4.5}
    torch.manual_seed(1)
    return kind(**sizes, **options).double().eval()


MODELS = {
    "schnet": lambda: small_model(num_filters=10),
    "float32": lambda: small_model(num_filters=10).float(),
    "dtnn": lambda: small_model(DTNN, cutoff_fn="cosine"),
}


def state_of(structures):
    from torch_sim.io import atoms_to_state

    return atoms_to_state(structures, CPU, torch.float64)


def compare(model, structures, found, stress):
    first = 0
    for r, atoms in enumerate(structures):
        want = atoms.copy()
        want.calc = Calculator(model)
        assert float(found["energy"][r]) == pytest.approx(want.get_potential_energy(), rel=1e-6)
        got = found["forces"][first : first + len(atoms)]
        np.testing.assert_allclose(got, want.get_forces(), atol=1e-5)
        if stress:
            wanted = want.get_stress(voigt=False)
            np.testing.assert_allclose(found["stress"][r], wanted, atol=1e-7)
        first += len(atoms)


@pytest.mark.parametrize("name", list(MODELS))
def test_whatever_changes_between_calls_the_results_are_those_of_the_calculator(name):
    model = MODELS[name]()
    generator = np.random.default_rng(0)
    molecules = [molecule(each) for each in ("CH3CH2OH", "H2O", "C6H6")]
    evaluate = torch_sim_model(model)
    for structures in (molecules, molecules[:2], molecules[::-1], molecules):
        for atoms in structures:
            atoms.positions += 0.05 * generator.standard_normal(atoms.positions.shape)
        compare(model, structures, evaluate(state_of(structures)), stress=False)
    crystals = [bulk("NaCl", "rocksalt", 5.2), bulk("Si", cubic=True)]
    evaluate = torch_sim_model(model, stress=True)
    for strain in (1.0, 1.02, 0.97):
        for crystal in crystals:
            crystal.set_cell(crystal.cell * strain, scale_atoms=True)
            crystal.rattle(0.05, rng=generator)
        compare(model, crystals, evaluate(state_of(crystals)), stress=True)


def test_nve_is_that_of_ase():
    from torch_sim import nve

    structures = [molecule("CH3CH2OH") for _ in range(2)]
    for seed, atoms in enumerate(structures):
        rng = np.random.default_rng(seed)
        atoms.set_velocities(rng.normal(0, 0.02, (len(atoms), 3)))
        atoms.set_momenta(atoms.get_momenta() - atoms.get_momenta().mean(0))
    model = torch_sim_model(ETHANOL)
    step = 0.5 * units.fs
    begin, advance = nve(model, dt=torch.tensor(step), kT=torch.tensor(0.025))
    state = begin(state_of(structures))
    state.momenta = torch.from_numpy(np.concatenate([a.get_momenta() for a in structures]))

    def total():
        kinetic = 0.5 * (state.momenta**2).sum(1) / state.masses
        return state.energy + torch.stack([part.sum() for part in kinetic.view(2, 9)])

    before = total()
    for _ in range(100):
        state = advance(state)
    assert float((total() - before).abs().max()) < 2e-3
    for r, atoms in enumerate(structures):
        atoms.calc = Calculator(ETHANOL)
        VelocityVerlet(atoms, timestep=0.5 * units.fs).run(100)
        np.testing.assert_allclose(state.positions[9 * r : 9 * r + 9], atoms.positions, atol=1e-6)


def test_langevin_keeps_the_temperature():
    from torch_sim import integrate, nvt_langevin

    atoms = molecule("CH3CH2OH")
    atoms.calc = Calculator(ETHANOL)
    BFGS(atoms, logfile=None).run(fmax=0.01)
    replicas, found = 24, []
    torch.manual_seed(5)

    def watched(**options):
        begin, advance = nvt_langevin(**options)

        def step(state, **more):
            state = advance(state, **more)
            found.append(float(((state.momenta**2).sum(1) / state.masses).sum()))
            return state

        return begin, step

    integrate(
        [atoms] * replicas,
        torch_sim_model(ETHANOL),
        integrator=watched,
        n_steps=400,
        temperature=300.0,
        timestep=0.0005,  # ps
        gamma=torch.tensor(1 / (20 * units.fs)),
    )
    temperature = np.mean(found[200:]) / (3 * len(atoms) * replicas * units.kB)
    # 24 molecules, 27 momenta each and some five times anew: a standard error of 2 percent.
    assert temperature == pytest.approx(300, rel=0.08)


@pytest.mark.parametrize("batched", [False, True])
def test_relaxed_molecules_are_those_of_ase(batched):
    from torch_sim import InFlightAutoBatcher, generate_force_convergence_fn, optimize
    from torch_sim.optimizers import fire

    structures = [molecule("CH3CH2OH") for _ in range(3)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05 * (1 + seed), seed=seed)
    model = torch_sim_model(ETHANOL)
    # Two molecules at a time: when one is done the next takes its place.
    some = InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=20)
    final = optimize(
        structures,
        model,
        optimizer=fire,
        convergence_fn=generate_force_convergence_fn(0.005, include_cell_forces=False),
        autobatcher=some if batched else False,
    )
    assert float(final.forces.norm(dim=1).max()) < 0.005 or not batched
    for r, atoms in enumerate(structures):
        atoms.calc = Calculator(ETHANOL)
        BFGS(atoms, logfile=None).run(fmax=0.005)
        assert float(final.energy[r]) == pytest.approx(atoms.get_potential_energy(), abs=1e-3)


def test_cells_are_relaxed_by_our_stress():
    from torch_sim import frechet_cell_fire, unit_cell_fire

    model = small_model(num_filters=10)
    crystals = [bulk("NaCl", "rocksalt", 5.2), bulk("NaCl", "rocksalt", 5.6)]
    for crystal in crystals:
        crystal.rattle(0.05, seed=0)
    evaluate = torch_sim_model(model, stress=True)
    for optimizer in (unit_cell_fire, frechet_cell_fire):
        begin, advance = optimizer(evaluate)
        state = begin(state_of(crystals))
        before = state.energy.clone()
        for _ in range(20):
            state = advance(state)
        assert (state.energy < before - 1e-4).all()
        ends = state.to_atoms()
        assert abs(ends[0].cell.volume / crystals[0].cell.volume - 1) > 1e-4
        found = {name: getattr(state, name) for name in ("energy", "forces", "stress")}
        compare(model, ends, found, stress=True)
