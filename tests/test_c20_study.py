"""The study of C20 on a small scale: a cage of springs stands for the reference method."""

import json
import shutil

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read
from torch_geometric.data import Data

from pyg_schnet import Potential, load
from pyg_schnet.benchmarks.accuracy import runner
from pyg_schnet.benchmarks.c20 import command, modes, polish, reference, sampling, selection, study
from pyg_schnet.benchmarks.c20.options import Options
from pyg_schnet.benchmarks.c20.report import Heading, Paragraph, Table, as_html, as_markdown
from pyg_schnet.benchmarks.c20.stages import Stages, finite
from pyg_schnet.datasets.fullerene import C20
from pyg_schnet.datasets.generate import dodecahedron
from pyg_schnet.simulation import normal_modes
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.splits import Split
from pyg_schnet.units import BOLTZMANN, KCAL_PER_MOL

BOND = 1.45
CAGE = dodecahedron(BOND)
PAIRS = np.array(
    [(i, j) for i in range(20) for j in range(i) if np.linalg.norm(CAGE[i] - CAGE[j]) < 2.4]
)
RESTS = np.linalg.norm(CAGE[PAIRS[:, 0]] - CAGE[PAIRS[:, 1]], axis=1)
STIFFNESS = np.where(RESTS < 1.5, 30.0, 8.0)  # eV/Å²
TRAINING = {
    "max_steps": 400, "val_every": 400, "hidden_channels": 16, "num_filters": 16,
    "num_interactions": 2, "batch_size": 4, "lr": 5e-3,
}  # fmt: skip


class Springs(Calculator):
    """Bonds and second neighbours of the cage; its minimum is the dodecahedron."""

    implemented_properties = ("energy", "forces")

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        i, j = PAIRS.T
        arms = self.atoms.positions[i] - self.atoms.positions[j]
        lengths = np.linalg.norm(arms, axis=1)
        pulls = (STIFFNESS * (RESTS - lengths) / lengths)[:, None] * arms
        forces = np.zeros((20, 3))
        np.add.at(forces, i, pulls)
        np.add.at(forces, j, -pulls)
        energy = float(0.5 * STIFFNESS @ (lengths - RESTS) ** 2) - 1000.0
        self.results = {"energy": energy, "forces": forces}


def small(folder, **changes) -> Options:
    given = dict(
        rows=("c20-t3-f64-rho0.01",), frames=40, displaced=20, equilibration=50.0, starts=1,
        along_modes=30, polish_steps=20, training=TRAINING,
        md_time=0.25, replicas=2, pimd_time=0.02, beads=2, cost_seconds=0.01,
    )  # fmt: skip
    return Options(folder, **(given | changes))


def no_ipi(*_):
    raise ImportError("Path integrals need i-PI.")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study from beginning to end, but for path integrals, and its folder."""
    folder = tmp_path_factory.mktemp("c20")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "run_path_integrals", no_ipi)
        return study.run(small(folder), Springs), folder


def test_frequencies_of_the_reference_are_those_of_its_springs(done):
    found = json.loads((done[1] / "reference_modes.json").read_text())["result"]
    hessian = np.zeros((20, 3, 20, 3))
    for (i, j), stiffness in zip(PAIRS, STIFFNESS):
        axis = (CAGE[i] - CAGE[j]) / np.linalg.norm(CAGE[i] - CAGE[j])
        block = stiffness * np.outer(axis, axis)
        hessian[i, :, i] += block
        hessian[j, :, j] += block
        hessian[i, :, j] -= block
        hessian[j, :, i] -= block
    want = normal_modes(hessian.reshape(60, 60), np.full(20, 12.011), CAGE)[0]
    np.testing.assert_allclose(found["frequencies_per_cm"], want, rtol=2e-4)
    assert found["shells"] == [{"bonds": 30, "length": BOND}]


def test_the_study_tells_all_its_stages(done):
    numbers, folder = done
    assert numbers["trajectory"]["frames"] == 40 and numbers["trajectory"]["method"] == "Springs"
    assert numbers["models"] == [] and numbers["trained"]["name"] == "c20-t3-f64-rho0.01"
    assert numbers["trained"]["n_train"] == 48 and numbers["displaced"]["displaced"] == 20
    size = numbers["trajectory"]["mean_force_component_eV_per_angstrom"] / KCAL_PER_MOL
    assert numbers["trained"]["forces"] < 0.7 * size
    by_kind = selection.forces_by_kind(folder / numbers["trained"]["file"], 40)
    assert by_kind == pytest.approx(numbers["trained"]["forces_by_kind"], abs=1e-4)
    low, high = sorted(by_kind.values())
    assert low <= numbers["trained"]["forces"] <= high
    assert numbers["model"]["largest_force_kcal_per_mol_angstrom"] < 1e-4
    assert numbers["deviations"]["modes"] == 54 == len(numbers["deviations"]["percent"])
    assert numbers["cost"]["model_ms"] > 0 and numbers["cost"]["reference_ms"] > 0
    words = (folder / "report.md").read_text()
    page = (folder / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page
    for text in (words, page):
        assert "Springs" in text and "Path integrals need i-PI" in text
    assert (folder / "figures" / "modes.png").stat().st_size > 5000
    on_disk = json.loads((folder / "study.json").read_text())
    assert on_disk["deviations"] == numbers["deviations"]


def test_what_is_finished_is_not_done_again(done, monkeypatch, capsys):
    numbers, folder = done

    def never(*_, **__):
        raise AssertionError("done again")

    for module, name in ((reference, "generate"), (runner, "metrics_of"), (modes, "relax")):
        monkeypatch.setattr(module, name, never)
    monkeypatch.setattr(sampling, "run_classical", never)
    monkeypatch.setattr(sampling, "run_path_integrals", no_ipi)
    again = study.run(small(folder), Springs)
    assert again == numbers
    assert capsys.readouterr().out.count("finished before, kept") == 12


def test_dynamics_stay_near_the_temperature_and_the_cage(done):
    for name, kelvin in (("classical", 300.0), ("trained_at", 500.0)):
        found = done[0][name]
        # From rest at the minimum, with weak friction: the potential takes its half.
        assert 0.3 * kelvin < found["temperature_K"] < 1.3 * kelvin
        assert abs(found["nearest_neighbor"]["mean"] - BOND) < 0.1
    assert done[0]["sampled"]["diameter"]["mean"] == pytest.approx(BOND * 2.803, abs=0.1)


def test_path_integrals_give_distributions_of_all_beads(done):
    pytest.importorskip("ipi", reason="no i-PI")
    numbers, folder = done
    path = folder / numbers["polished"]["file"]
    found = sampling.run_path_integrals(path, small(folder))
    assert found["beads"] == 2 and found["time_ps"] == pytest.approx(0.02)
    # Five frames of two beads each, less a tenth.
    assert found["structures"] == 9
    assert found["kinetic_energy_eV"] > 0


def test_an_interrupted_training_leaves_no_result(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "metrics_of", lambda *_: {"stopped": "interrupted"})
    with pytest.raises(KeyboardInterrupt):
        study.run(small(tmp_path, frames=20, equilibration=10.0), Springs)
    assert (tmp_path / "trajectory.json").exists()
    assert not (tmp_path / "model.json").exists()


def test_of_several_models_the_best_in_validation_is_trained_for_long(tmp_path, monkeypatch):
    asked = []

    def trained(row, options, inputs):
        asked.append((row.name, inputs["options"]["max_time"]))
        size = row.options()["num_filters"]
        return {"name": row.name, "forces": 1.0, "energy": 1.0, "val_forces": 100.0 - size}

    monkeypatch.setattr(selection, "train_row", trained)
    rows = ("c20-t3-f64-rho0.01", "c20-t3-f128-rho0.01")
    options = small(tmp_path, rows=rows, select_time="1m", max_time="5m")
    found = study._train(Stages(tmp_path), options, {})
    assert asked == [(rows[0], "1m"), (rows[1], "1m"), (rows[1], "5m")]
    assert [one["name"] for one in found["models"]] == [*rows]
    assert found["trained"]["name"] == rows[1]


def test_displaced_structures_have_the_energies_of_harmonic_oscillators(tmp_path):
    minimum = reference.structure("C20")
    found = reference.make_displaced(small(tmp_path, displaced=150), Springs, minimum)
    frames = read(reference.displaced_path(small(tmp_path)), ":")
    assert found["displaced"] == len(frames) == 150
    energies = np.array([atoms.get_potential_energy() for atoms in frames]) + 1000
    kelvin = np.array([atoms.info["temperature_K"] for atoms in frames])
    # Square roots of temperatures are even: a third of the highest is the mean.
    assert 130 < kelvin.mean() < 205 and kelvin.min() < 2 and 450 < kelvin.max() < 500
    # kT/2 of each of 54 modes; warmer ones are anharmonic.
    cold = kelvin < 150
    of_kt = energies[cold] / (BOLTZMANN * kelvin[cold])
    assert of_kt.mean() == pytest.approx(54 / 2, rel=0.1)
    assert of_kt.std() == pytest.approx((54 / 2) ** 0.5, rel=0.5)
    atoms = frames[0].copy()
    atoms.calc = Springs()
    np.testing.assert_allclose(frames[0].get_forces(), atoms.get_forces(), atol=1e-6)


def test_structures_along_one_mode_have_displacements_of_all_sizes(tmp_path):
    minimum = reference.structure("C20")
    options = small(tmp_path, along_modes=80)
    found = reference.make_along_modes(options, Springs, minimum)
    frames = read(reference.along_modes_path(options), ":")
    assert found["along_modes"] == len(frames) == 80
    kelvin = np.array([atoms.info["temperature_K"] for atoms in frames])
    assert 0.1 <= kelvin.min() < 1 and 100 < kelvin.max() <= 500
    # Logarithms are even: the geometric mean is that of the ends.
    assert np.log(kelvin).mean() == pytest.approx(np.log(0.1 * 500) / 2, abs=1.0)
    energies = np.array([atoms.get_potential_energy() for atoms in frames]) + 1000
    assert np.mean(energies / (BOLTZMANN * kelvin)) == pytest.approx(0.5, rel=0.5)
    # One mode alone, so a force along the displacement where the well is harmonic.
    for atoms in frames[:10]:
        moved, forces = (atoms.positions - CAGE).ravel(), atoms.get_forces().ravel()
        along = -(moved @ forces) / np.linalg.norm(moved) / np.linalg.norm(forces)
        assert along == pytest.approx(1.0, abs=0.02)


def test_polish_lowers_relative_errors_of_forces(done):
    numbers, folder = done
    found = numbers["polished"]
    assert found["loss_after"] < 0.8 * found["loss_before"]
    assert (found["along_modes"], found["others"]) == (30, 48) and found["steps"] <= 20
    options = small(folder)
    # The loss by the definition, from the calculator of a model and the frames in the file.
    trained, polished = (
        Potential(load(folder / numbers[name]["file"]).double()).eval()
        for name in ("trained", "polished")
    )
    table = polish.structures(options)
    train = Split.load((folder / numbers["trained"]["file"]).parent / "split.npz").train
    others = np.square([table.forces[20 * m : 20 * m + 20].numpy() for m in train])
    floor = (polish.FLOOR**2) * others.mean()
    for name, potential in (("loss_before", trained), ("loss_after", polished)):
        terms = []
        for m in [*range(60, 90), *train.tolist()]:
            forces = table.forces[20 * m : 20 * m + 20].numpy()
            data = Data(z=table.z[:20], pos=table.pos[20 * m : 20 * m + 20])
            wrong = potential(data)["forces"].numpy() - forces
            terms.append((wrong**2).mean() / ((forces**2).mean() + floor))
        assert np.mean(terms) == pytest.approx(found[name], rel=1e-3), name


def test_a_study_without_polish_uses_the_model_as_trained(done, tmp_path, monkeypatch):
    folder = tmp_path / "again"
    shutil.copytree(done[1], folder)
    monkeypatch.setattr(sampling, "run_path_integrals", no_ipi)
    found = study.run(small(folder, polish_steps=0), Springs)
    assert "polished" not in found
    off = done[0]["trained_deviations"]["largest_percent"]
    assert found["deviations"]["largest_percent"] == pytest.approx(off, rel=1e-3)
    assert "Polish" not in (folder / "report.md").read_text()


def test_a_whole_trajectory_is_no_view_and_can_be_trained_on(done):
    data = C20(done[1] / "data", 40)
    assert len(MoleculeTable.from_dataset(data)) == 40
    assert len(C20(done[1] / "data", 30)) == 30


def test_a_longer_trajectory_than_asked_for_is_refused(done):
    with pytest.raises(ValueError, match="frames=30 is less than the 40 of"):
        reference.make_trajectory(small(done[1], frames=30), Springs)


def test_stages_are_kept_by_their_inputs(tmp_path):
    stages = Stages(tmp_path)
    assert stages.run("a", {"n": 1}, lambda: {"is": 1.0})["is"] == 1.0
    assert stages.run("a", {"n": 1}, lambda: {"is": 2.0})["is"] == 1.0
    assert stages.run("a", {"n": 2}, lambda: {"is": 3.0})["is"] == 3.0
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json is damaged"):
        stages.run("a", {"n": 2}, lambda: {"is": 4.0})
    assert finite({"x": [float("nan"), 1.0]}) == {"x": [None, 1.0]}


def test_deviations_compare_modes_with_their_partners():
    kinds = np.eye(6).reshape(6, 2, 3)[:3].tolist()
    known = {"frequencies_per_cm": [100.0, 200.0, 400.0], "bonds_angstrom": [1.4, 1.5]}
    ours = {"frequencies_per_cm": [101.0, 195.0, 412.0], "bonds_angstrom": [1.4, 1.52]}
    found = modes.deviations(ours | {"eigenvectors": kinds}, known | {"eigenvectors": kinds})
    assert found["percent"] == pytest.approx([1.0, -2.5, 3.0])
    assert found["largest_percent"] == pytest.approx(3.0)
    assert found["mean_per_cm"] == pytest.approx((1 + 5 + 12) / 3)
    assert (found["within_1_percent"], found["within_2_percent"]) == (1, 1)
    assert found["largest_bond_difference_angstrom"] == pytest.approx(0.02)
    swapped = [kinds[1], kinds[0], kinds[2]]
    found = modes.deviations(ours | {"eigenvectors": swapped}, known | {"eigenvectors": kinds})
    assert found["model_per_cm"] == [195.0, 101.0, 412.0]
    assert found["largest_percent"] == pytest.approx(95.0)
    assert found["largest_percent_in_order"] == pytest.approx(3.0)


def test_distributions_count_what_loops_count():
    frames = CAGE + np.random.default_rng(0).normal(0, 0.03, (6, 20, 3))
    found = sampling.distributions(frames)
    nearest, widest = [], []
    for frame in frames:
        apart = [[float(np.linalg.norm(a - b)) for b in frame] for a in frame]
        nearest += [sorted(row)[1] for row in apart]
        widest.append(max(map(max, apart)))
    assert found["nearest_neighbor"]["mean"] == pytest.approx(np.mean(nearest))
    assert found["nearest_neighbor"]["deviation"] == pytest.approx(np.std(nearest))
    assert found["diameter"]["mean"] == pytest.approx(np.mean(widest))
    for name, total in (("nearest_neighbor", 1.0), ("diameter", 1.0), ("distance", 19.0)):
        centers, density = (np.array(found[name][key]) for key in ("centers", "density"))
        assert density.sum() * (centers[1] - centers[0]) == pytest.approx(total, rel=1e-4)


def test_rows_of_other_data_sets_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rows must be of C20, got md17-ethanol-1k"):
        selection.rows_of(small(tmp_path, rows=("md17-ethanol-1k",)))
    sizes = [row.options()["num_interactions"] for row in selection.rows_of(Options(tmp_path))]
    assert sizes == sorted(sizes) and set(sizes) == {3, 6}


@pytest.mark.parametrize(("name", "value"), [("frames", 5), ("md_time", 0.0), ("beads", 0)])
def test_numbers_out_of_range_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Options(tmp_path, **{name: value})


def test_command_line(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(study, "run", seen.append)
    words = ["--output", str(tmp_path), "--frames", "500", "--options", "batch_size=8"]
    command.main(command.parser().parse_args(words))
    assert seen[0] == Options(tmp_path, frames=500, training={"batch_size": 8})
    command.main(command.parser().parse_args(["--output", str(tmp_path), "--quick"]))
    assert seen[1] == Options(tmp_path).quick() and seen[1].max_time == "1m"


def test_blocks_as_markdown_and_html(tmp_path):
    table = Table(["a", "b"], [["<", "1"]])
    assert as_markdown(table, tmp_path) == "| a | b |\n| :-- | --: |\n| < | 1 |"
    assert "<td>&lt;</td><td>1</td>" in as_html(table)
    assert (
        as_markdown(Heading("x"), tmp_path) == "## x" and as_html(Heading("x", 1)) == "<h1>x</h1>"
    )
    assert as_html(Paragraph("a & b")) == "<p>a &amp; b</p>"


def test_xtb_converges_as_far_as_a_relaxation_needs():
    pytest.importorskip("tblite", reason="no tblite")
    moved = CAGE + np.random.default_rng(0).normal(0, 0.02, CAGE.shape)
    forces = []
    for first in (moved, 1.01 * moved):
        atoms = reference.structure("C20")
        atoms.calc = reference.gfn2_xtb()
        atoms.positions = first
        atoms.get_forces()
        atoms.positions = moved
        forces.append(atoms.get_forces())
    # The limit of its relaxations is twenty-five times that.
    np.testing.assert_allclose(forces[0], forces[1], rtol=0, atol=2e-6)
    assert reference.method_of(reference.gfn2_xtb) == "GFN2-xTB"


def test_minimum_of_the_model_is_written_for_the_dynamics(done):
    atoms = read(done[1] / "model_minimum.extxyz")
    lengths = modes.bonds(atoms.positions)
    assert len(lengths) == 30 and np.abs(lengths - BOND).max() < 0.1
