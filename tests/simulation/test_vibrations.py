"""Hessians and normal modes against formulas, differences of forces, and ASE."""

import json

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read, write
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import Vibrations as AseVibrations
from helpers import methanol, skewed_crystal, small_schnet, water
from torch import nn
from torch.testing import assert_close
from torch_geometric.data import Batch, Data

from pyg_schnet import Potential, pretrained
from pyg_schnet.analysis.spectra import lorentzian_spectrum, plot_frequencies
from pyg_schnet.simulation import (
    Calculator,
    hessian,
    hessian_by_differences,
    relax,
    vibrations,
    vibrations_file,
)
from pyg_schnet.units import HBAR, INVERSE_CM

MODEL = "md17-ethanol"
KINDS = {
    "exact": {"filters": "exact"},
    "no_cutoff": {"cutoff_fn": "none", "filter_activation": "ssp"},
    "normalized": {"normalize": "neighbors", "shared_filters": True},
    "tabulated": {"filters": "tabulated"},
}


class Springs(nn.Module):
    """Harmonic bonds between all atoms: 0.5 k (d - d0)² each."""

    def __init__(self, k: float, length: float) -> None:
        super().__init__()
        self.k, self.length = k, length

    def forward(
        self, z, pos, batch=None, *args, num_graphs=1, dtype=None, edge_index=None, **others
    ):
        graph = torch.zeros_like(z) if batch is None else batch
        source, target = torch.nonzero(graph[:, None] == graph[None], as_tuple=True)
        source, target = source[source < target], target[source < target]
        d = (pos[source] - pos[target]).norm(dim=1)
        energy = 0.5 * self.k * (d - self.length) ** 2
        return pos.new_zeros(num_graphs).index_add(0, graph[source], energy).view(-1, 1).to(dtype)


@pytest.fixture(scope="module")
def ethanol():
    model = pretrained(MODEL).double()
    return relax(Calculator(model), molecule("CH3CH2OH"), 1e-5, progress=False).atoms


def hessian_by_autograd(model, data):
    """Row by row, from the whole energy of one structure, with nothing in between."""
    model = model.double()

    def energy(flat):
        out = model(data.z, flat.view(-1, 3), cell=data.get("cell"), pbc=data.get("pbc"))
        return out.sum()

    return torch.autograd.functional.hessian(energy, data.pos.double().flatten())


@pytest.mark.parametrize("chunk", [None, 4])
@pytest.mark.parametrize("structure", [methanol, skewed_crystal])
@pytest.mark.parametrize("kind", KINDS)
def test_hessians_are_those_of_plain_autograd(kind, structure, chunk):
    model, data = small_schnet(**KINDS[kind]), structure()
    got = hessian(Potential(model), data, chunk=chunk)
    want = hessian_by_autograd(model, data)
    assert want.abs().max() > 1e-3 and torch.equal(got, got.T)
    assert_close(got, want, rtol=0, atol=1e-11 * float(want.abs().max()))


def test_hessians_of_float32_models_are_differences_of_their_float64_forces():
    model = small_schnet(torch.float32)
    atoms = Atoms([8, 1, 1], water().pos.numpy())
    got = hessian(model, water(torch.float32), atoms=[2, 0])
    assert model.embedding.weight.dtype == torch.float32
    calculator = Calculator(small_schnet(torch.float32).double())
    want = hessian_by_differences(calculator, atoms, indices=[2, 0], step=2e-3)
    assert_close(got, want, rtol=0, atol=1e-6 * float(want.abs().max()))


def test_hessians_take_given_edges_and_leave_data_and_gradients_alone():
    data, model = water(), small_schnet(filters="exact")
    want = hessian(model, data)
    data.edge_index = torch.tensor([[1, 0], [0, 1]])
    with torch.inference_mode():
        got = hessian(model, data)
    assert (got - want).abs().max() > 1e-6
    assert got[6:].abs().max() == 0  # the third atom has no edge
    assert not data.pos.requires_grad and all(p.requires_grad for p in model.parameters())
    assert hessian(model, Data(z=data.z[:1], pos=data.pos[:1])).abs().max() == 0


def test_hessians_refuse_what_they_cannot_do():
    with pytest.raises(ValueError, match="one structure at a time"):
        hessian(small_schnet(), Batch.from_data_list([water(), water()]))
    with pytest.raises(ValueError, match=r"atoms must lie in 0\.\.2, got \[3\]"):
        hessian(small_schnet(), water(), atoms=[3])
    with pytest.raises(ValueError, match="chunk must be at least 1"):
        hessian(small_schnet(), water(), chunk=0)
    with pytest.raises(ValueError, match="step must be a positive length"):
        hessian_by_differences(EMT(), molecule("N2"), step=0)


def test_the_frequency_of_a_spring_is_the_known_one():
    k, masses = 30.0, [2.0, 5.0]
    atoms = Atoms("H2", [[0, 0, 0], [0.6, 0.0, 0.8]])
    found = vibrations(Potential(Springs(k, 1.0)), atoms, masses=masses)
    reduced = 1 / (1 / masses[0] + 1 / masses[1])
    want = HBAR * np.sqrt(k / reduced) / INVERSE_CM
    np.testing.assert_allclose(found.frequencies, [want], rtol=1e-12)
    assert found.rigid_motions == 5 and found.kind == "minimum"
    assert found.zero_point_energy == pytest.approx(0.5 * HBAR * np.sqrt(k / reduced), rel=1e-12)
    # Both atoms move along the bond, the lighter one further.
    mode = found.modes[0] / found.modes[0, 0, 0] * 0.6
    np.testing.assert_allclose(mode, [[0.6, 0, 0.8], [-0.24, 0, -0.32]], atol=1e-12)
    assert float((found.masses[:, None] * found.modes[0] ** 2).sum()) == pytest.approx(1.0)
    assert found.reduced_masses == pytest.approx(1 / np.square(found.modes[0]).sum())


def test_a_triangle_of_springs_has_its_three_frequencies():
    """Wilson, Decius and Cross: breathing at 3k/m, the degenerate pair at 3k/2m."""
    k, mass = 12.0, 7.0
    corners = np.array([[0, 0, 0], [1, 0, 0], [0.5, np.sqrt(0.75), 0]])
    data = Data(z=torch.tensor([7, 7, 7]), pos=torch.tensor(corners))
    found = vibrations(Springs(k, 1.0), data, masses=[mass] * 3)
    want = HBAR * np.sqrt(k / mass * np.array([1.5, 1.5, 3.0])) / INVERSE_CM
    np.testing.assert_allclose(found.frequencies, want, rtol=1e-10)


@pytest.mark.parametrize("filters", ["exact", "auto"])
def test_the_stretch_of_a_schnet_is_the_second_derivative_along_the_bond(filters):
    model = small_schnet(filters=filters)
    second = []
    d = torch.linspace(0.7, 2.0, 27, dtype=torch.float64)
    for length in d:
        x = length.clone().requires_grad_(True)
        zero = torch.zeros((), dtype=torch.float64)
        pos = torch.stack([torch.stack([zero, zero, zero]), torch.stack([x, zero, zero])])
        energy = model(torch.tensor([1, 1]), pos)
        (slope,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        second.append(float(torch.autograd.grad(slope, x)[0]))
    for length, k in zip(d.tolist()[::13], second[::13]):
        atoms = Atoms("H2", [[0, 0, 0], [length, 0, 0]])
        found = vibrations(model, atoms)
        want = np.sign(k) * HBAR * np.sqrt(abs(k) * 2 / 1.008) / INVERSE_CM
        np.testing.assert_allclose(found.frequencies, [want], rtol=1e-9)
        assert found.kind == ("minimum" if k > 0 else "transition state")


def test_relaxed_ethanol_has_six_zero_and_21_real_frequencies(ethanol):
    found = vibrations(MODEL, ethanol, progress=False)
    assert found.kind == "minimum" and found.num_imaginary == 0
    assert found.rigid_motions == 6 and len(found.frequencies) == 21
    assert found.frequencies[0] > 100 and 3500 < found.frequencies[-1] < 4000  # the O-H stretch
    # Before the projection.
    roots = np.repeat(np.sqrt(found.masses), 3)
    values = np.linalg.eigvalsh(found.hessian / np.outer(roots, roots))
    zeros = HBAR * np.sqrt(np.abs(values)) / INVERSE_CM
    assert np.sort(zeros)[:6].max() < 2.0
    np.testing.assert_allclose(np.sort(zeros)[6:], found.frequencies, atol=0.01)
    modes = found.modes.reshape(21, -1) * roots
    np.testing.assert_allclose(modes @ modes.T, np.eye(21), atol=1e-12)
    momenta = (found.masses[None, :, None] * found.modes).sum(1)
    assert np.abs(momenta).max() < 1e-12


def test_frequencies_are_those_of_ases_finite_differences(ethanol, tmp_path):
    atoms = ethanol.copy()
    atoms.calc = Calculator(pretrained(MODEL).double())
    theirs = AseVibrations(atoms, name=str(tmp_path / "vib"), delta=0.002, nfree=4)
    theirs.run()
    data = theirs.get_vibrations()
    found = vibrations(MODEL, ethanol, progress=False)
    want = data.get_hessian_2d()
    np.testing.assert_allclose(found.hessian, want, rtol=0, atol=1e-4 * np.abs(want).max())
    np.testing.assert_allclose(found.frequencies, data.get_frequencies().real[-21:], rtol=1e-4)
    own = hessian_by_differences(atoms.calc, ethanol).numpy()
    np.testing.assert_allclose(own, found.hessian, rtol=0, atol=1e-4 * np.abs(want).max())
    # The same goes on to ASE.
    own = found.to_ase()
    np.testing.assert_allclose(own.get_frequencies().real[-21:], found.frequencies, rtol=1e-9)
    assert own.get_zero_point_energy() == pytest.approx(found.zero_point_energy, rel=1e-7)
    thermo = IdealGasThermo(
        own.get_energies().real[-21:],
        "nonlinear",
        found.energy,
        found.atoms,
        symmetrynumber=1,
        spin=0,
    )
    assert 0.002 < thermo.get_entropy(300.0, 1e5, verbose=False) < 0.004


def test_other_calculators_are_differentiated_by_differences():
    atoms = relax(
        MorsePotential(epsilon=2.0, r0=1.1, rho0=6.0), Atoms("N2", [[0, 0, 0], [1.2, 0, 0]]), 1e-6
    ).atoms
    found = vibrations(MorsePotential(epsilon=2.0, r0=1.1, rho0=6.0), atoms)
    k = 2 * 2.0 * (6.0 / 1.1) ** 2  # of epsilon (exp(-2 a) - 2 exp(-a)), a = rho0 (r / r0 - 1)
    want = HBAR * np.sqrt(k / (0.5 * 14.007)) / INVERSE_CM
    np.testing.assert_allclose(found.frequencies, [want], rtol=1e-3)
    assert found.rigid_motions == 5


def test_crystals_keep_their_rotations_and_atoms_have_none():
    copper = bulk("Cu", cubic=True)
    found = vibrations(EMT(), copper, progress=False)
    assert found.rigid_motions == 3 and len(found.frequencies) == 9 and found.kind == "minimum"
    alone = vibrations(small_schnet(), Atoms("C", [[0.0, 0.0, 0.0]]))
    assert alone.rigid_motions == 3 and len(alone.frequencies) == 0
    assert alone.zero_point_energy == 0 and "0 modes" in alone.sentence()
    crystal = skewed_crystal()
    assert vibrations(small_schnet(), crystal).rigid_motions == 3


def test_fixed_atoms_do_not_vibrate(ethanol):
    atoms = ethanol.copy()
    atoms.set_constraint(FixAtoms([0, 1, 2]))
    found = vibrations(MODEL, atoms, progress=False)
    whole = vibrations(MODEL, ethanol, progress=False)
    assert found.rigid_motions == 0 and len(found.frequencies) == 18
    assert found.indices.tolist() == list(range(3, 9))
    np.testing.assert_allclose(found.hessian, whole.hessian[9:, 9:], atol=1e-9)
    assert np.abs(found.modes[:, :3]).max() == 0
    assert len(found.to_ase().get_energies()) == 18


def test_a_compressed_chain_is_named_a_saddle_point():
    # Compressed bonds buckle: the energy falls as the atoms leave the line.
    line = Atoms("N3", [[0, 0, 0], [0.8, 0, 0], [1.6, 0, 0]])
    found = vibrations(Springs(20.0, 1.0), line)
    assert found.rigid_motions == 5 and found.num_imaginary == 2
    assert found.kind == "saddle point of order 2" and "imaginary" in found.sentence()
    assert found.zero_point_energy > 0


def test_structures_that_cannot_vibrate_are_refused(ethanol):
    atoms = ethanol.copy()
    atoms.set_constraint(FixBondLength(0, 1))
    with pytest.raises(ValueError, match="FixAtoms only, not FixBondLength"):
        vibrations(MODEL, atoms)
    with pytest.raises(ValueError, match="no atoms"):
        vibrations(MODEL, Atoms())
    with pytest.raises(ValueError, match="masses must be positive"):
        vibrations(MODEL, ethanol, masses=[0.0] * 9)
    with pytest.raises(ValueError, match="knows nothing of N"):
        vibrations(MODEL, molecule("N2"))


def test_a_file_is_relaxed_first_and_its_modes_are_written(tmp_path, ethanol):
    write(tmp_path / "start.xyz", [molecule("H2O"), molecule("CH3CH2OH")])
    out = tmp_path / "new" / "modes.extxyz"
    found, done = vibrations_file(tmp_path / "start.xyz", MODEL, out, progress=False)
    assert done.converged and done.steps > 0 and found.largest_force < 1e-4
    want = vibrations(MODEL, ethanol, progress=False).frequencies
    np.testing.assert_allclose(found.frequencies, want, atol=1.0)
    frames = read(out, ":")
    np.testing.assert_allclose([f.info["frequency"] for f in frames], found.frequencies)
    np.testing.assert_allclose(frames[3].arrays["mode"], found.modes[3], atol=1e-7)
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["frequencies_per_cm"] == found.frequencies.tolist()
    assert told["kind"] == "minimum" and told["relaxation_steps"] == done.steps
    assert sorted(p.name for p in out.parent.iterdir()) == ["modes.extxyz", "modes.json"]
    # At rest, or left as it is.
    write(tmp_path / "end.extxyz", done.atoms)
    assert vibrations_file(tmp_path / "end.extxyz", MODEL, out, 1e-3)[1] is None
    found, done = vibrations_file(tmp_path / "start.xyz", MODEL, out, steps=0)
    assert done is None and found.largest_force > 0.1


def test_a_file_that_cannot_be_done_leaves_nothing_behind(tmp_path):
    start, out = tmp_path / "start.xyz", tmp_path / "modes.extxyz"
    write(start, molecule("CH3CH2OH"))
    with pytest.raises(ArithmeticError, match="has not come to rest.*allow more steps"):
        vibrations_file(start, MODEL, out, steps=2, progress=False)
    for arguments, sentence in (
        ({"fmax": -1.0}, "fmax must be finite"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"output": start}, "must not be the file that is read"),
    ):
        with pytest.raises(ValueError, match=sentence):
            vibrations_file(**{"path": start, "potential": MODEL, "output": out, **arguments})
    assert [p.name for p in tmp_path.iterdir()] == ["start.xyz"]


def test_the_spectrum_has_an_area_of_one_for_each_mode(tmp_path):
    frequencies = np.array([-300.0, 800.0, 810.0, 3000.0])
    grid = np.linspace(-60_000, 60_000, 600_001)
    area = np.trapezoid(lorentzian_spectrum(frequencies, grid, 12.0), grid)
    assert area == pytest.approx(4.0, rel=1e-3)
    path = plot_frequencies(frequencies, tmp_path / "f" / "s.png", reference=frequencies + 10)
    assert path.stat().st_size > 5000 and len(list(path.parent.iterdir())) == 1
    assert plot_frequencies(np.zeros(0), tmp_path / "empty.png").is_file()
    with pytest.raises(ValueError, match="width must be finite"):
        lorentzian_spectrum(frequencies, grid, 0.0)
    with pytest.raises(ValueError, match="must be finite to be drawn"):
        plot_frequencies(np.array([np.nan]), tmp_path / "nan.png")
