"""Descriptors of crystals against brute force and known sums, and kernel ridge rows of a table."""

import csv
import itertools
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pyg_schnet.benchmarks.accuracy import command, curve, descriptors, kernel_ridge, runner
from pyg_schnet.benchmarks.accuracy.catalogue import DESCRIPTORS, find_rows, load_rows
from pyg_schnet.benchmarks.accuracy.descriptors import (
    BOHR,
    MATRICES,
    coulomb_matrix,
    describe_table,
    ewald_matrix,
    sine_matrix,
    sorted_triangle,
    spectrum,
)
from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.splits import Split
from pyg_schnet.training.targets import Property
from pyg_schnet.training.tasks import Task

SKEWED = np.array([[4.1, 0.3, 0.0], [-1.2, 3.6, 0.4], [0.7, 1.1, 5.2]])
NUMBERS = np.array([8, 22, 38, 8])
ROCK_SALT = 2.8 * np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
SHARED = Path(__file__).parents[2] / "shared" / "data" / "mp20_subset" / "mp20_subset.npz"

pytest.importorskip("sklearn")
pytest.importorskip("pymatgen")


@pytest.fixture
def crystal():
    """Four atoms in a skewed cell, one of them outside of it."""
    fractional = np.array([[0.0, 0.1, 0.2], [0.45, 0.5, 0.55], [0.9, 0.2, 0.7], [1.3, -0.2, 0.1]])
    return NUMBERS, fractional @ SKEWED, SKEWED


def images(cell, reach):
    return [np.array(k) @ cell for k in itertools.product(range(-reach, reach + 1), repeat=3)]


def test_the_sine_matrix_is_the_formula_of_the_paper(crystal):
    z, pos, cell = crystal
    inverse = np.linalg.inv(cell.T)  # of lattice vectors as columns, as the paper has them
    want = np.zeros((4, 4))
    for i, j in itertools.product(range(4), repeat=2):
        waves = [math.sin(math.pi * (inverse[k] @ (pos[i] - pos[j]))) ** 2 for k in range(3)]
        length = np.linalg.norm(sum(wave * cell[k] for k, wave in enumerate(waves)))
        want[i, j] = 0.5 * z[i] ** 2.4 if i == j else z[i] * z[j] / (length / BOHR)
    np.testing.assert_allclose(sine_matrix(z, pos, cell), want, rtol=1e-12)


@pytest.mark.filterwarnings("ignore")  # matminer's own, of NumPy's matrices
def test_the_sine_matrix_is_that_of_matminer(crystal):
    matminer = pytest.importorskip("matminer.featurizers.structure.matrix")
    from pymatgen.core import Structure

    z, pos, cell = crystal
    structure = Structure(cell, z.tolist(), pos, coords_are_cartesian=True)
    theirs = matminer.SineCoulombMatrix(flatten=False).featurize(structure)[0]
    ratio = sine_matrix(z, pos, cell) / theirs
    apart = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(ratio[~apart], 1, rtol=1e-12)
    np.testing.assert_allclose(ratio[apart], ratio[0, 1], rtol=1e-12)
    assert abs(ratio[0, 1] - 1) < 2e-5  # its Å is the "Angstrom star" of X-ray tables


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_the_coulomb_matrix_is_the_sum_over_all_images(crystal, decay):
    z, pos, cell = crystal
    want = np.zeros((4, 4))
    for i, j in itertools.product(range(4), repeat=2):
        for shift in images(cell, 10):
            r = np.linalg.norm(pos[j] + shift - pos[i])
            if 1e-8 < r < 20 * decay:
                want[i, j] += z[i] * z[j] * math.exp(-r / decay) / (r / BOHR)
        if i == j:
            want[i, j] = 0.5 * (want[i, j] + z[i] ** 2.4)
    np.testing.assert_allclose(coulomb_matrix(z, pos, cell, decay), want, rtol=1e-9)


@pytest.mark.parametrize(
    ("cell", "pos", "madelung"),
    [
        (ROCK_SALT, 2.8 * np.ones(3), 1.747564594633),
        (4.1 * np.eye(3), 2.05 * np.ones(3), 1.762674773070),
    ],
)
def test_the_ewald_matrix_sums_up_to_madelung_constants(cell, pos, madelung):
    # Of rock salt and caesium chloride; the charges cancel, and so do their backgrounds.
    matrix = ewald_matrix(np.array([1.0, -1.0]), np.array([np.zeros(3), pos]), cell)
    nearest = np.linalg.norm(images(cell, 2) + pos, axis=1).min()
    energy = np.triu(matrix).sum()
    assert math.isclose(energy, -madelung * BOHR / nearest, rel_tol=1e-9)


def test_charges_in_a_background_have_the_energy_of_a_wigner_lattice():
    # -2.8372974795 / 2 L: one charge of a simple cubic lattice in its neutralising background
    for charge, length in ((1, 1.0), (6, 3.7)):
        matrix = ewald_matrix(np.array([charge]), np.zeros((1, 3)), length * np.eye(3))
        want = -2.837297479480 / 2 * charge**2 * BOHR / length
        assert math.isclose(matrix[0, 0], want, rel_tol=1e-9)


def test_the_ewald_matrix_does_not_depend_on_the_screening(crystal, monkeypatch):
    from pymatgen.core import ewald

    known = ewald.EwaldSummation
    found = [ewald_matrix(*crystal)]
    for eta in (0.2, 0.9):
        monkeypatch.setattr(ewald, "EwaldSummation", Screened(known, eta))
        found.append(ewald_matrix(*crystal))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-7, atol=1e-8)
    assert abs(found[0][0, 1]) > 1


class Screened:
    """pymatgen's summation with a screening of our choice."""

    def __init__(self, known, eta):
        self.known, self.eta, self.CONV_FACT = known, eta, known.CONV_FACT

    def __call__(self, structure):
        return self.known(structure, eta=self.eta)


def test_the_ewald_energy_of_a_supercell_is_that_of_its_cells(crystal):
    z, pos, cell = crystal
    double = np.diag([2, 1, 1]) @ cell
    one = np.triu(ewald_matrix(z, pos, cell)).sum()
    two = np.triu(ewald_matrix(np.tile(z, 2), np.concatenate([pos, pos + cell[0]]), double)).sum()
    assert math.isclose(two, 2 * one, rel_tol=1e-9)


@pytest.mark.parametrize("name", MATRICES)
def test_descriptors_do_not_change_with_order_place_orientation_or_image(crystal, name):
    z, pos, cell = crystal
    want = MATRICES[name](z, pos, cell)
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    order = np.array([2, 0, 3, 1])
    moved = (pos + 0.37 + np.array([[1, 0, -2], [0, 0, 0], [0, 1, 0], [3, 0, 0]]) @ cell) @ rotation
    found = MATRICES[name](z[order], moved[order], cell @ rotation)
    for vector in (spectrum, sorted_triangle):
        np.testing.assert_allclose(vector(found, 6), vector(want, 6), rtol=1e-7, atol=1e-7)
    assert np.count_nonzero(spectrum(want, 6)) == 4
    stretched = MATRICES[name](z, pos, cell @ np.diag([1.0, 1.0, 1.1]))
    assert np.abs(spectrum(stretched, 6) - spectrum(want, 6)).max() > 1e-3


def test_the_sine_and_coulomb_spectra_know_cells_but_not_their_choice_of_vectors(crystal):
    z, pos, cell = crystal
    other = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]]) @ cell  # of the same lattice
    for matrix in (coulomb_matrix, ewald_matrix):
        np.testing.assert_allclose(matrix(z, pos, other), matrix(z, pos, cell), rtol=1e-8)
    assert np.abs(sine_matrix(z, pos, other) - sine_matrix(z, pos, cell)).max() > 1


def small_table(count=60, periodic=True):
    """Rock salt structures of some elements and lattice constants; a made-up energy."""
    random = np.random.default_rng(0)
    z = random.choice([3, 9, 11, 12, 8, 17, 19], size=(count, 2))
    length = random.uniform(1.9, 3.2, count)
    cell = length[:, None, None] * (ROCK_SALT / 2.8)
    pos = np.zeros((count, 2, 3))
    pos[:, 1] = length[:, None]
    y = -1.0 - np.abs(z[:, 0] - z[:, 1]) / 10 + (length - 2.5) ** 2
    ptr = torch.arange(0, 2 * count + 1, 2)
    tensors = [torch.from_numpy(of) for of in (z.ravel(), pos.reshape(-1, 3), y[:, None], cell)]
    z, pos, y, cell = tensors
    return MoleculeTable(z.long(), pos.float(), ptr, y, None, cell.float() if periodic else None)


def test_descriptors_are_kept_and_an_interrupted_calculation_goes_on(tmp_path, monkeypatch):
    table, calls = small_table(), []

    def counted(z, pos, cell):
        calls.append(None)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return sine_matrix(z, pos, cell)

    monkeypatch.setitem(MATRICES, "sine-matrix", counted)
    with pytest.raises(KeyboardInterrupt):
        describe_table(table, "sine-matrix", tmp_path)
    found = describe_table(table, "sine-matrix", tmp_path)
    assert len(calls) == 20 + 60 - 19
    assert (describe_table(table, "sine-matrix", tmp_path).spectrum == found.spectrum).all()
    assert len(calls) == 61 and len(list(tmp_path.iterdir())) == 1
    row = sine_matrix(*(of.numpy().astype(float) for of in table_row(table, 5)))
    np.testing.assert_allclose(found.spectrum[5], spectrum(row, 2))
    np.testing.assert_allclose(found.sorted[5], sorted_triangle(row, 2))
    table.pos[1] += 0.1
    describe_table(table, "sine-matrix", tmp_path)
    assert len(calls) == 121
    monkeypatch.setattr(descriptors, "SORTED_UP_TO", 1)
    table.pos[1] += 0.1
    assert list(describe_table(table, "sine-matrix", tmp_path).by_name()) == ["spectrum"]


def table_row(table, k):
    a, b = table.ptr[k], table.ptr[k + 1]
    return table.z[a:b], table.pos[a:b], table.cell[k]


def test_what_cannot_be_described_is_refused(tmp_path, crystal):
    z, pos, cell = crystal
    with pytest.raises(ValueError, match="Two atoms of a crystal lie in one place"):
        sine_matrix(z, np.concatenate([pos[:3], pos[:1] + cell[2]]), cell)
    with pytest.raises(ValueError, match="sine-matrix describes crystals"):
        describe_table(small_table(periodic=False), "sine-matrix", tmp_path)


def test_the_similarity_is_that_of_scikit_learn():
    from sklearn.metrics import pairwise

    a, b = np.random.default_rng(1).normal(size=(2, 7, 5))
    for kernel, known, gamma in (
        ("laplacian", pairwise.laplacian_kernel, 1 / 2.5),
        ("rbf", pairwise.rbf_kernel, 1 / 2.5**2),
    ):
        choice = kernel_ridge.Choice("spectrum", kernel, 2.5, 1e-3)
        found = kernel_ridge._similarity(kernel_ridge._distance(a, b, kernel), choice)
        np.testing.assert_allclose(found, known(a, b, gamma=gamma), rtol=1e-10)


def test_validation_chooses_and_the_test_set_has_no_say(tmp_path):
    table = small_table()
    task = task_of(table)
    found = kernel_ridge.run(task, "sine-matrix", tmp_path)
    assert (found["n_train"], found["n_val"], found["n_test"]) == (40, 10, 10)
    choice = kernel_ridge.Choice(**found["chosen"])

    vectors = describe_table(table, "sine-matrix", tmp_path).by_name()
    regression = kernel_ridge.Regression(
        vectors, table.y[:, 0].numpy(), np.arange(40), np.arange(40, 50)
    )
    grid = list(kernel_ridge._grid(regression))
    assert len(grid) == 2 * 2 * len(kernel_ridge.WIDTHS) * len(kernel_ridge.REGULARIZATIONS)
    assert found["val_mae"] <= min(map(regression.score, grid)) + 1e-12
    error = regression.predict(choice, np.arange(50, 60)) - table.y[50:, 0].numpy()
    assert math.isclose(found["test_mae"], np.abs(error).mean(), rel_tol=1e-9)
    spread = table.y[50:].std().item()
    assert found["test_mae"] < 0.5 * spread  # it has learned something

    table.y[50:] += 7.0
    assert kernel_ridge.run(task, "sine-matrix", tmp_path)["chosen"] == found["chosen"]


def task_of(table, target=None):
    target = target or Property("energy", "eV/atom", "eV/atom", extensive=False)
    rows = torch.arange(60)
    return Task("small crystals", target, table, Split(rows[:40], rows[40:50], rows[50:]))


def test_equal_structures_with_equal_energies_do_no_harm(tmp_path):
    table = small_table()
    table.z[:] = 11
    table.cell[:] = table.cell[0].clone()
    table.pos[1::2] = table.pos[1].clone()
    table.y[:] = 2.0
    assert kernel_ridge.run(task_of(table), "coulomb-matrix", tmp_path)["test_mae"] < 1e-9


def write_crystals(path, count=60):
    """A table with CIFs, as the crystals of the rows come."""
    from pymatgen.core import Structure
    from pymatgen.io.cif import CifWriter

    table = small_table(count)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["material_id", "formation_energy_per_atom", "heat_ref", "cif"])
        for k in range(count):
            z, pos, cell = (of.numpy() for of in table_row(table, k))
            structure = Structure(cell, z.tolist(), pos, coords_are_cartesian=True)
            energy = float(table.y[k, 0])
            out.writerow([f"mp-{k}", energy, 5 * energy, str(CifWriter(structure))])
    return path


@pytest.fixture
def small(tmp_path):
    """Options of rows on a small file of crystals, and where things go."""
    raw = write_crystals(tmp_path / "small.csv")
    options = {"train_size": 40, "val_size": 10, "raw": str(raw), "root": str(tmp_path / "data")}
    return options, {"output": tmp_path / "results" / "accuracy", "runs": tmp_path / "runs"}


def test_rows_of_descriptors_are_run_and_recorded_like_others(small, capsys):
    options, places = small
    found = runner.run(["mp20-*"], [0, 1], overrides=options, **places)
    assert list(found) == ["mp20-coulomb", "mp20-ewald", "mp20-sine"]
    for name, record in found.items():
        assert json.loads((places["output"] / f"{name}.json").read_text()) == record
        a, b = record["seeds"]["0"], record["seeds"]["1"]
        assert a["n_test"] == b["n_test"] == 10 and a["property"] != b["property"]
        assert set(a["chosen"]) == {"representation", "kernel", "width", "regularization"}
        mean = (a["property"] + b["property"]) / 2
        assert math.isclose(record["errors"]["property"]["mean"], mean)
        assert record["errors"]["property"]["unit"] == "eV/atom"
    out = capsys.readouterr().out
    assert out.count("regularization 0.") + out.count("regularization 1e-") == 3
    assert "laplacian kernel of " in out or "rbf kernel of " in out
    assert len(list((places["runs"] / "descriptors").glob("*.npz"))) == 3
    runner.run(["mp20-sine"], [0], overrides=options, **places)
    assert "mp20-sine, seed 0: finished before, kept" in capsys.readouterr().out


def test_descriptors_and_network_have_the_same_split_and_units(small):
    options, places = small
    rows = load_rows()
    for name in ("mp20", "perov5", "mp-perovskite"):
        row = rows[name]
        assert row.file and row.predictor == "schnet"
        others = [rows[f"{name}-{k}"] for k in ("sine", "ewald", "coulomb")]
        assert {other.predictor for other in others} == set(DESCRIPTORS) == set(MATRICES)
        for other in others:
            assert (other.data, other.seeds, other.paper) == (row.data, row.seeds, row.paper)
            assert other.file == row.file
    table_ii = {f"mp-3k{end}": rows[f"mp-3k{end}"] for end in ("", "-sine", "-ewald", "-coulomb")}
    values = [row.paper["property"].value for row in table_ii.values()]
    assert values == [0.127, 0.37, 0.49, 0.64] and rows["mp-60k"].paper["property"].value == 0.035
    splits = [
        runner.make_task(rows[name], runner.config_of(rows[name], 1, options)).split
        for name in ("mp20", "mp20-sine")
    ]
    for part in ("train", "val", "test"):
        assert torch.equal(*(getattr(split, part) for split in splits))
    found = runner.run(["perov5-sine"], [0], overrides=options, **places)["perov5-sine"]
    alone = runner.run(["mp20-sine"], [0], overrides=options, **places)["mp20-sine"]
    ratio = found["errors"]["property"]["mean"] / alone["errors"]["property"]["mean"]
    assert found["errors"]["property"]["unit"] == "eV" and math.isclose(ratio, 5, rel_tol=1e-6)


def test_a_row_says_which_file_it_is_of(small):
    with pytest.raises(ValueError, match=r"Row mp20-sine is of mp20_subset.csv.gz: say .* --raw"):
        runner.run(["mp20-sine"], overrides={"root": "nowhere"}, **small[1])


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.kernel_ridge", None)
    with pytest.raises(ImportError, match="sine-matrix needs scikit-learn"):
        kernel_ridge.run(task_of(small_table()), "sine-matrix", tmp_path)
    monkeypatch.setitem(sys.modules, "pymatgen.core", None)
    with pytest.raises(ImportError, match="ewald-matrix needs pymatgen"):
        ewald_matrix(np.array([1]), np.zeros((1, 3)), np.eye(3))


def test_a_curve_compares_on_one_test_set_and_goes_on_where_it_was(small, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    options, places = small
    short = ("max_steps=20", "val_every=10", "hidden_channels=8", "num_filters=8")
    words = ["--raw", options["raw"], "--root", options["root"], "--train_size", "40"]
    words += ["--val_size", "10", "--output", str(places["output"]), "--runs", str(places["runs"])]
    words += ["--options", *short, "num_interactions=1", "max_time=1h"]

    def act(*names):
        command.main(command.parser().parse_args([*names, *words]))

    act("curve", "mp20", "mp20-sine", "--sizes", "20", "40", "--seeds", "0", "1")
    file = places["output"].parent / "curve_mp20.json"
    record = json.loads(file.read_text())
    assert set(record["points"]) == {"mp20", "mp20-sine"}
    for by_size in record["points"].values():
        for size, points in by_size.items():
            assert [point["n_train"] for point in points.values()] == [int(size)] * 2
            assert {point["n_test"] for point in points.values()} == {10}
    splits = [
        Split.load(places["runs"] / name / "seed0" / "split.npz") for name in ("mp20", "mp20-of-20")
    ]
    assert torch.equal(splits[0].test, splits[1].test) and torch.equal(splits[0].val, splits[1].val)
    assert torch.equal(splits[0].train[:20], splits[1].train)
    assert file.with_suffix(".png").read_bytes()[:4] == b"\x89PNG"
    assert str(places["runs"].parent) not in file.read_text()

    monkeypatch.setattr(runner, "train_task", None)
    act("curve", "mp20", "mp20-sine", "--sizes", "20", "40", "--seeds", "0", "1")
    assert json.loads(file.read_text()) == record
    capsys.readouterr()
    # All training structures: that is the row itself, whose runs are there.
    act("mp20", "--seeds", "0", "1")
    assert "2 seeds, 40 to train, 10 to test, 20 steps" in capsys.readouterr().out


def test_a_curve_that_cannot_be_is_refused(small, tmp_path):
    options, places = small
    where = {"output": tmp_path, "overrides": options, "runs": places["runs"]}
    with pytest.raises(ValueError, match=r"between 1 and the 40 training .* got \[20, 50\]"):
        curve.run("mp20", sizes=[20, 50], **where)
    with pytest.raises(ValueError, match="perov5-sine cannot be on a curve with mp20"):
        curve.run("mp20", ["perov5-sine"], **where)
    with pytest.raises(ValueError, match="There is no row ''"):
        curve.run("", **where)
    assert [row.name for row in curve._rows("mp20", ())] == [
        "mp20",
        "mp20-coulomb",
        "mp20-ewald",
        "mp20-sine",
    ]
    assert find_rows(["mp-3k*"])[0].file is None
    (tmp_path / "curve_mp20.json").write_text(json.dumps({"overrides": {"raw": "other.csv"}}))
    with pytest.raises(ValueError, match="was found with .*other.csv"):
        curve.run("mp20", sizes=[20], **where)


@pytest.mark.skipif(not SHARED.is_file(), reason="the shared subset of MP-20 is not here")
def test_real_crystals_have_finite_descriptors(tmp_path):
    with np.load(SHARED, allow_pickle=False) as file:
        ends = np.concatenate([[0], np.cumsum(file["n_atoms"][:40])])
        z, fractional = file["numbers"][: ends[-1]], file["frac_coords"][: ends[-1]]
        cell = file["cell"][:40]
    of_atom = np.repeat(np.arange(40), np.diff(ends))
    pos = np.einsum("ni,nij->nj", fractional, cell[of_atom])
    tensors = (torch.from_numpy(of) for of in (z.astype(np.int64), pos, ends, cell))
    z, pos, ptr, cell = tensors
    table = MoleculeTable(z, pos, ptr, torch.zeros(40, 1).double(), None, cell)
    for name in MATRICES:
        found = describe_table(table, name, tmp_path)
        assert np.isfinite(found.spectrum).all() and np.isfinite(found.sorted).all()
        assert ((found.spectrum != 0).sum(1) == np.diff(ends)).all()
