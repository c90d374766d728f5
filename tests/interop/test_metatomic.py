"""Models as metatomic's: its own calculator and checks against this package's calculator."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from helpers import methanol, skewed_crystal

from pyg_schnet import DTNN, Ensemble, Potential, SchNet, save
from pyg_schnet.interop import metatomic as interop
from pyg_schnet.interop import to_metatomic
from pyg_schnet.interop.plain import torch_without_pyg
from pyg_schnet.simulation import Calculator

SIZES = {"hidden_channels": 12, "num_filters": 10, "num_interactions": 2, "num_gaussians": 9}
ATOMREF = -150.0 * torch.arange(100.0, dtype=torch.float64)
CUTOFF = 4.5


@pytest.fixture(scope="module")
def calculators():
    """metatomic.torch and metatomic's calculator of ASE."""
    with torch_without_pyg():
        package = pytest.importorskip("metatomic.torch", reason="metatomic-torch is not installed")
        from metatomic_ase import MetatomicCalculator
    return package, MetatomicCalculator


def random_weights(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model.double().eval()


MODELS = {
    "schnet": lambda: SchNet(**SIZES, cutoff=CUTOFF, mean=-2.0, std=1.7, atomref=ATOMREF),
    "papers": lambda: SchNet(
        **SIZES, cutoff=CUTOFF, filter_activation="ssp", normalize="neighbors"
    ),
    "dtnn": lambda: DTNN(num_interactions=2, cutoff=CUTOFF, cutoff_fn="cosine"),
}


def ase_atoms(data, pbc):
    cell = None if data.get("cell") is None else data.cell[0].numpy()
    return Atoms(data.z.numpy(), data.pos.numpy(), cell=cell, pbc=pbc)


STRUCTURES = {
    "molecule": lambda: ase_atoms(methanol(), False),
    "crystal": lambda: ase_atoms(skewed_crystal(), True),
    "slab": lambda: ase_atoms(skewed_crystal(), (True, True, False)),
    "small cell": lambda: bulk("NaCl", "rocksalt", 5.0),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_metatomics_calculator_gives_our_energies_forces_and_stresses(calculators, tmp_path, name):
    _, MetatomicCalculator = calculators
    model = random_weights(MODELS[name]())
    path = tmp_path / "model.pt"
    to_metatomic(model, path, elements=[1, 6, 8, 11, 17])
    theirs = MetatomicCalculator(path, check_consistency=True, device="cpu")
    for make in STRUCTURES.values():
        atoms, want = make(), make()
        atoms.calc, want.calc = theirs, Calculator(model)
        assert abs(want.get_potential_energy()) > 1e-3
        np.testing.assert_allclose(
            atoms.get_potential_energy(), want.get_potential_energy(), rtol=1e-10
        )
        np.testing.assert_allclose(atoms.get_forces(), want.get_forces(), atol=1e-8)
        if atoms.pbc.all():
            assert abs(want.get_stress()).max() > 1e-4
            np.testing.assert_allclose(atoms.get_stress(), want.get_stress(), atol=1e-10)


def test_energies_of_atoms_add_up_and_can_be_selected(calculators):
    from metatensor.torch import Labels

    package, MetatomicCalculator = calculators
    model = random_weights(MODELS["schnet"]())
    calculator = MetatomicCalculator(to_metatomic(model), check_consistency=True, device="cpu")
    structures = [make() for make in STRUCTURES.values()]
    of_atoms = package.ModelOutput(unit="eV", sample_kind="atom")
    single = calculator.run_model(structures, {"energy": of_atoms})["energy"].block()
    assert single.samples.names == ["system", "atom"]
    start = 0
    for atoms in structures:
        atoms.calc = Calculator(model)
        got = single.values[start : start + len(atoms), 0]
        np.testing.assert_allclose(got, atoms.get_potential_energies(), rtol=1e-10)
        start += len(atoms)
    of_system = package.ModelOutput(unit="eV", sample_kind="system")
    total = calculator.run_model(structures, {"energy": of_system})["energy"].block().values[:, 0]
    want = [atoms.get_potential_energy() for atoms in structures]
    np.testing.assert_allclose(total, want, rtol=1e-10)
    some = Labels(["system", "atom"], torch.tensor([[0, 1], [0, 4], [1, 2]], dtype=torch.int32))
    part = calculator.run_model(structures, {"energy": of_atoms}, some)["energy"].block()
    assert part.samples.values.tolist() == some.values.tolist()
    chosen = torch.stack([single.values[1, 0], single.values[4, 0], single.values[6 + 2, 0]])
    np.testing.assert_allclose(part.values[:, 0], chosen, rtol=1e-12)
    sums = calculator.run_model(structures, {"energy": of_system}, some)["energy"].block()
    np.testing.assert_allclose(sums.values[0, 0], chosen[:2].sum(), rtol=1e-12)


def test_features_are_those_of_the_model(calculators):
    package, MetatomicCalculator = calculators
    model = random_weights(MODELS["schnet"]())
    calculator = MetatomicCalculator(to_metatomic(model), check_consistency=True, device="cpu")
    data = methanol()
    want = model.features(data.z, data.pos).detach()
    for kind, values in (("atom", want), ("system", want.sum(0, keepdim=True))):
        asked = package.ModelOutput(sample_kind=kind)
        found = calculator.run_model(STRUCTURES["molecule"](), {"feature": asked})["feature"]
        np.testing.assert_allclose(found.block().values, values, rtol=1e-10, atol=1e-12)


def test_plumed_can_ask_for_the_number_of_features(calculators):
    package, _ = calculators
    model = to_metatomic(random_weights(MODELS["schnet"]()))
    nothing = torch.zeros(0, 3, dtype=torch.float64)
    empty = package.System(
        types=torch.zeros(0, dtype=torch.int32),
        positions=nothing,
        cell=torch.zeros(3, 3, dtype=torch.float64),
        pbc=torch.zeros(3, dtype=torch.bool),
    )
    from metatensor.torch import Labels, TensorBlock

    names = ["first_atom", "second_atom", "cell_shift_a", "cell_shift_b", "cell_shift_c"]
    edges = TensorBlock(
        values=nothing.unsqueeze(2),
        samples=Labels(names, torch.zeros(0, 5, dtype=torch.int32)),
        components=[Labels("xyz", torch.arange(3, dtype=torch.int32).view(3, 1))],
        properties=Labels("distance", torch.zeros(1, 1, dtype=torch.int32)),
    )
    for options in model.requested_neighbor_lists():
        empty.add_neighbor_list(options, edges)
    asked = package.ModelEvaluationOptions(
        length_unit="angstrom", outputs={"feature": package.ModelOutput(sample_kind="system")}
    )
    block = model([empty], asked, check_consistency=True)["feature"].block()
    assert block.values.shape == (1, 12) and not block.values.any()


def test_a_file_says_what_the_model_is(calculators, tmp_path):
    package, _ = calculators
    model = random_weights(MODELS["schnet"]())
    save(model, tmp_path / "model.safetensors", info={"elements": ["H", "C", "O"]})
    to_metatomic(
        tmp_path / "model.safetensors",
        tmp_path / "sub" / "model.pt",
        name="small",
        dtype=torch.float32,
    )
    package.check_atomistic_model(str(tmp_path / "sub" / "model.pt"))
    loaded = package.load_atomistic_model(tmp_path / "sub" / "model.pt")
    known = loaded.capabilities()
    assert known.atomic_types == [1, 6, 8] and known.dtype == "float32"
    assert known.length_unit == "angstrom" and known.outputs["energy"].unit == "eV"
    assert known.interaction_range == 2 * CUTOFF
    (neighbors,) = loaded.requested_neighbor_lists()
    assert neighbors.cutoff == CUTOFF and neighbors.full_list and neighbors.strict
    assert loaded.metadata().name == "small"


def test_a_float32_model_agrees_to_its_rounding(calculators):
    _, MetatomicCalculator = calculators
    model = random_weights(SchNet(**SIZES, cutoff=CUTOFF))
    atoms, want = STRUCTURES["crystal"](), STRUCTURES["crystal"]()
    exported = to_metatomic(model, dtype=torch.float32)
    atoms.calc, want.calc = MetatomicCalculator(exported, device="cpu"), Calculator(model)
    np.testing.assert_allclose(atoms.get_potential_energy(), want.get_potential_energy(), rtol=1e-5)
    np.testing.assert_allclose(atoms.get_forces(), want.get_forces(), atol=1e-4)


def test_a_file_runs_without_the_package(calculators, tmp_path):
    model = random_weights(MODELS["schnet"]())
    to_metatomic(model, tmp_path / "model.pt")
    program = """
import sys
sys.modules["pyg_schnet"] = sys.modules["torch_geometric"] = None  # cannot be imported
from ase.build import bulk
from metatomic_ase import MetatomicCalculator
atoms = bulk("NaCl", "rocksalt", 5.0)
atoms.calc = MetatomicCalculator(sys.argv[1], device="cpu")
print(repr(float(atoms.get_potential_energy())))
"""
    command = [sys.executable, "-W", "ignore", "-c", program, tmp_path / "model.pt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    want = STRUCTURES["small cell"]()
    want.calc = Calculator(model)
    np.testing.assert_allclose(float(done.stdout), want.get_potential_energy(), rtol=1e-10)


INPUT = """
<simulation verbosity="quiet">
  <output prefix="run">
    <properties filename="out"> [ potential{electronvolt}, conserved{electronvolt} ] </properties>
    <trajectory filename="pos" format="xyz" cell_units="angstrom"> positions{angstrom} </trajectory>
    <trajectory filename="for" format="xyz" cell_units="angstrom"> forces{ev/ang} </trajectory>
  </output>
  <total_steps> 4 </total_steps>
  <prng><seed> 1 </seed></prng>
  <ffdirect name="schnet" pbc="false">
    <pes> metatomic </pes>
    <parameters>
      { template: template.xyz, model: model.pt, device: cpu, check_consistency: True }
    </parameters>
  </ffdirect>
  <system>
    <initialize nbeads="1">
      <file mode="xyz"> start.xyz </file>
      <velocities mode="thermal" units="kelvin"> 300 </velocities>
    </initialize>
    <forces><force forcefield="schnet"/></forces>
    <motion mode="dynamics">
      <dynamics mode="nve"><timestep units="femtosecond"> 0.5 </timestep></dynamics>
    </motion>
  </system>
</simulation>
"""


def test_i_pi_moves_atoms_by_a_file(calculators, tmp_path):
    pytest.importorskip("ipi", reason="i-PI is not installed")
    pytest.importorskip("vesin.metatomic", reason="vesin-torch is not installed")
    from pyg_schnet.simulation.pimd_processes import ipi_script

    model = random_weights(MODELS["schnet"]())
    to_metatomic(model, tmp_path / "model.pt")
    atoms = STRUCTURES["molecule"]()
    write(tmp_path / "template.xyz", atoms)
    rows = [
        f"{symbol} {x:.10f} {y:.10f} {z:.10f}"
        for symbol, (x, y, z) in zip(atoms.symbols, atoms.positions)
    ]
    comment = "# CELL(abcABC): 30 30 30 90 90 90 positions{angstrom} cell{angstrom}"
    (tmp_path / "start.xyz").write_text("\n".join([str(len(rows)), comment, *rows]) + "\n")
    (tmp_path / "input.xml").write_text(INPUT)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", ipi_script(), "input.xml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    potential = np.loadtxt(tmp_path / "run.out")[:, 0]
    frames = read(tmp_path / "run.pos_0.xyz", ":", format="xyz")
    forces = read(tmp_path / "run.for_0.xyz", ":", format="xyz")
    assert len(frames) == len(potential) == 5
    assert abs(frames[4].positions - frames[0].positions).max() > 1e-3
    for frame, energy, force in zip(frames, potential, forces):
        frame.calc = Calculator(model)
        # i-PI writes six digits of positions and forces, and nine of energies.
        np.testing.assert_allclose(energy, frame.get_potential_energy(), rtol=1e-6)
        np.testing.assert_allclose(force.positions, frame.get_forces(), atol=2e-4)


@pytest.mark.parametrize(
    "model, sentence",
    [
        (lambda: SchNet(**SIZES, cutoff_fn="none"), "cutoff_fn='none': all pairs interact"),
        (lambda: SchNet(**SIZES, readout="mean"), "readout='mean'"),
        (lambda: SchNet(**SIZES, dipole=True), "not a Dipole"),
        (lambda: Ensemble([Potential(SchNet(**SIZES)), SchNet(**SIZES)]), "one by one"),
    ],
)
def test_models_that_engines_cannot_take_are_named(model, sentence):
    with pytest.raises(ValueError, match=sentence):
        to_metatomic(model())


def test_metatomic_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "metatomic.torch", None)
    with pytest.raises(ImportError, match="pip install metatomic-torch"):
        interop.to_metatomic(SchNet(**SIZES, cutoff=CUTOFF))
