import itertools
import json
import math

import numpy as np
import pytest
from ase.build import molecule

from pyg_schnet.analysis.commands import parsers, run
from pyg_schnet.analysis.error_figures import (
    plot_error_by_size,
    plot_errors,
    plot_isomers,
    plot_learning_curves,
    write_outliers,
)
from pyg_schnet.analysis.error_statistics import (
    error_by_size,
    isomer_ranking,
    learning_curves,
    log_histogram,
    worst,
)
from pyg_schnet.analysis.errors import formula_of, read_errors

KCAL = 23.0
COMMON = {"n_test": 5, "n_train": 40, "n_val": 4}


def write_run(folder, metrics, **arrays):
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "predictions.npz", **arrays)
    (folder / "metrics.json").write_text(json.dumps(COMMON | metrics))
    return folder


@pytest.fixture
def of_energy(tmp_path):
    reference = np.array([-10.0, -20.0, -30.0, -40.0, -50.0])
    return write_run(
        tmp_path / "energy",
        {"target": "U0", "unit": "kcal/mol", "shown_per_unit": KCAL, "extensive": True},
        rows=np.array([7, 3, 9, 1, 5]),
        reference=reference,
        prediction=reference + [0.1, -0.3, 0.02, 0.5, 0.0],
        dressed=reference + 1.0,
    )


@pytest.fixture
def of_forces(tmp_path):
    sizes = np.array([2, 3])
    forces = np.arange(15, dtype=np.float32).reshape(5, 3)
    wrong = np.zeros((5, 3), dtype=np.float32)
    wrong[:2], wrong[2:] = 0.25, -0.5
    return write_run(
        tmp_path / "forces",
        {
            "target": "ethanol, other",
            "unit": "kcal/mol",
            "forces_unit": "kcal/mol/Å",
            "shown_per_unit": KCAL,
            "extensive": True,
        },
        rows=np.array([4, 2]),
        reference=np.array([1.0, 2.0]),
        prediction=np.array([1.5, 2.1]),
        dressed=np.array([1.0, 1.0]),
        forces_reference=forces,
        forces_prediction=forces + wrong,
        num_atoms=sizes,
    )


def test_errors_are_told_in_the_unit_of_the_run(of_energy):
    (found,) = read_errors(of_energy)
    assert (found.name, found.unit, found.num_atoms) == ("U0", "kcal/mol", None)
    np.testing.assert_allclose(found.signed, KCAL * np.array([0.1, -0.3, 0.02, 0.5, 0.0]))
    np.testing.assert_allclose(found.by_structure(), found.absolute)
    np.testing.assert_allclose(found.base - found.reference, KCAL)
    assert found.is_scalar and found.rows.tolist() == [7, 3, 9, 1, 5]


def test_forces_belong_to_their_structures(of_forces):
    energy, forces = read_errors(of_forces)
    assert (energy.name, forces.name, forces.unit) == ("energy", "forces", "kcal/mol/Å")
    assert len(forces.absolute) == 15 and not forces.is_scalar
    np.testing.assert_allclose(forces.by_structure(), [0.25 * KCAL, 0.5 * KCAL])
    np.testing.assert_allclose(energy.by_structure(), [0.5 * KCAL, 0.1 * KCAL])
    assert energy.num_atoms.tolist() == [2, 3]
    assert worst(forces, 1).rows.tolist() == [2] and worst(energy, 1).rows.tolist() == [4]


def test_several_properties_have_units_of_their_own(tmp_path):
    reference = np.array([[1.0, 10.0], [2.0, 20.0], [3.0, 40.0]])
    prediction = reference + [[0.1, 1.0], [-0.3, 2.0], [0.2, -3.0]]
    run = write_run(
        tmp_path,
        {
            "target": "gap,U0",
            "unit": "std",
            "shown_per_unit": 1.0,
            "extensive": [False, True],
            "test_mae_gap_meV": 200.0,
            "test_mae_U0_kcal_mol": 2.0 * KCAL,
        },
        rows=np.arange(3),
        reference=reference,
        prediction=prediction,
        dressed=np.ones((3, 2)),
    )
    gap, energy = read_errors(run)
    assert (gap.name, gap.unit, energy.name, energy.unit) == ("gap", "meV", "U0", "kcal/mol")
    np.testing.assert_allclose(gap.signed, [100.0, -300.0, 200.0])
    np.testing.assert_allclose(energy.signed, KCAL * np.array([1.0, 2.0, -3.0]))
    np.testing.assert_allclose((gap.base, energy.base), [[0.0] * 3, [KCAL] * 3])


def test_vectors_are_judged_by_their_components(tmp_path):
    reference = np.zeros((2, 3))
    prediction = np.array([[0.3, 0.0, 0.3], [0.0, 0.6, 0.0]])
    metrics = {"target": "dipole", "unit": "D", "shown_per_unit": 1.0, "extensive": False}
    arrays = {"rows": np.arange(2), "reference": reference, "prediction": prediction}
    (found,) = read_errors(write_run(tmp_path, metrics, **arrays, dressed=reference))
    np.testing.assert_allclose(found.by_structure(), [0.2, 0.2])
    assert found.absolute.mean() == pytest.approx(0.2) and not found.is_scalar


def test_of_an_ensemble_the_mean_is_judged(tmp_path):
    values = np.array([1.0, 2.0])
    arrays = {"energy_reference": values, "energy_mean": values + 0.5, "energy_std": values}
    forces = {f"forces_{name}": np.zeros(9) for name in ("reference", "mean", "std")}
    metrics = {"target": "ethanol", "unit": "eV", "shown_per_unit": 1.0}
    found = read_errors(write_run(tmp_path, metrics, rows=np.arange(2), **arrays, **forces))
    assert [one.name for one in found] == ["energy", "forces"]
    np.testing.assert_allclose(found[0].absolute, 0.5)
    with pytest.raises(ValueError, match="members of an ensemble"):
        found[1].by_structure()


def test_bins_are_equally_wide_on_a_logarithmic_axis_and_lose_nothing():
    values = np.abs(np.random.default_rng(0).normal(size=5000))
    values[:10] = 0.0
    edges, counts = log_histogram(values, 30)
    assert counts.sum() == 5000 and counts[0] >= 10
    np.testing.assert_allclose(np.diff(np.log(edges)), np.log(edges[-1] / edges[0]) / 30)
    for k in range(1, 29):
        assert counts[k] == ((values >= edges[k]) & (values < edges[k + 1])).sum()
    assert edges[-1] == values.max() and edges[0] >= 1e-6 * values.max()
    assert log_histogram(np.zeros(4))[1].sum() == 4
    assert log_histogram(np.full(4, 0.3))[1][-1] == 4
    for wrong in ([], [-1.0], [math.nan]):
        with pytest.raises(ValueError):
            log_histogram(np.array(wrong))


def test_the_worst_come_first_and_are_listed_with_their_rows(of_energy, tmp_path):
    (found,) = read_errors(of_energy)
    known = worst(found, 3)
    assert known.rows.tolist() == [1, 3, 7] and known.place.tolist() == [3, 1, 0]
    np.testing.assert_allclose(known.error, KCAL * np.array([0.5, 0.3, 0.1]))
    lines = write_outliers(found, tmp_path / "a.csv", 2).read_text().splitlines()
    assert lines[0] == "rank,row,U0 error (kcal/mol),reference,prediction"
    rank, row, error, reference, prediction = lines[1].split(",")
    assert (rank, row) == ("1", "1") and float(error) == pytest.approx(0.5 * KCAL)
    assert float(prediction) - float(reference) == pytest.approx(0.5 * KCAL)
    assert len(lines) == 3
    with pytest.raises(ValueError, match="at least 1"):
        worst(found, 0)


def test_errors_by_size_are_means_of_groups():
    rng = np.random.default_rng(1)
    sizes, absolute = rng.integers(3, 7, 200), rng.random(200)
    found = error_by_size(absolute, sizes)
    assert found.count.sum() == 200 and found.sizes.tolist() == [3, 4, 5, 6]
    assert (found.count * found.mean).sum() == pytest.approx(absolute.sum())
    for size, mean, std in zip(found.sizes, found.mean, found.std):
        part = [a for a, n in zip(absolute, sizes) if n == size]
        assert (mean, std) == (pytest.approx(np.mean(part)), pytest.approx(np.std(part)))
    with pytest.raises(ValueError, match="of one length"):
        error_by_size(absolute, sizes[1:])


def tau_by_pairs(a, b):
    """Kendall's tau-b by looking at each pair."""
    same = opposite = ties_a = ties_b = 0
    for i, j in itertools.combinations(range(len(a)), 2):
        x, y = np.sign(a[i] - a[j]), np.sign(b[i] - b[j])
        same += x * y > 0
        opposite += x * y < 0
        ties_a += x == 0 and y != 0
        ties_b += y == 0 and x != 0
    all_a, all_b = same + opposite + ties_a, same + opposite + ties_b
    return (same - opposite) / math.sqrt(all_a * all_b)


def test_isomers_are_ranked_within_their_composition():
    rng = np.random.default_rng(2)
    formulas = ["C7H10O2"] * 30 + ["C2H6O"] * 8 + ["H2O"]
    reference = rng.integers(0, 20, len(formulas)).astype(float)
    prediction = np.round(reference + 3.0 * rng.normal(size=len(formulas)))
    order = rng.permutation(len(formulas))
    formulas = [formulas[k] for k in order]
    reference, prediction = reference[order], prediction[order]
    found = isomer_ranking(reference, prediction, formulas)
    assert found.formulas == ["C7H10O2", "C2H6O"] and found.count.tolist() == [30, 8]
    for formula, tau, mae in zip(found.formulas, found.tau, found.mae):
        chosen = [k for k, name in enumerate(formulas) if name == formula]
        assert tau == pytest.approx(tau_by_pairs(reference[chosen], prediction[chosen]))
        assert mae == pytest.approx(np.abs(reference - prediction)[chosen].mean())
    assert isomer_ranking(reference, prediction, formulas, 10).formulas == ["C7H10O2"]
    assert isomer_ranking(reference, -reference, formulas).tau.max() == pytest.approx(-1.0)
    assert math.isnan(isomer_ranking([1.0, 1.0], [1.0, 2.0], ["A", "A"]).tau[0])
    with pytest.raises(ValueError, match="of one length"):
        isomer_ranking(reference, prediction, formulas[1:])
    assert formula_of(molecule("CH3CH2OH").numbers) == "C2H6O"


def test_learning_curves_join_runs_of_one_size(of_energy, tmp_path):
    metrics = {"target": "U0", "unit": "kcal/mol", "shown_per_unit": KCAL, "extensive": True}
    runs = [of_energy]
    for number, (size, error) in enumerate([(40, 0.0), (80, 0.05)]):
        zero = np.zeros(5)
        runs.append(
            write_run(
                tmp_path / str(number),
                metrics | {"n_train": size},
                rows=np.arange(5),
                reference=zero,
                prediction=zero + error,
                dressed=zero,
            )
        )
    (found,) = learning_curves(runs)
    one = KCAL * 0.92 / 5
    assert found.n_train.tolist() == [40, 80] and found.name == "U0"
    np.testing.assert_allclose(found.mae, [one / 2, KCAL * 0.05])
    np.testing.assert_allclose(found.std, [one / 2, 0.0], atol=1e-12)
    assert plot_learning_curves([found], tmp_path / "a.png").is_file()
    with pytest.raises(ValueError, match="runs must be"):
        learning_curves([])


def test_figures_are_drawn(of_energy, of_forces, tmp_path):
    all_of_them = read_errors(of_energy) + read_errors(of_forces)
    assert plot_errors(all_of_them, tmp_path / "a.png").stat().st_size > 5000
    (found,) = read_errors(of_energy)
    by_size = error_by_size(found.by_structure(), np.array([3, 4, 4, 5, 6]))
    assert plot_error_by_size(by_size, tmp_path / "b.pdf").read_bytes()[:4] == b"%PDF"
    isomers = found.reference, found.prediction
    assert plot_isomers(*isomers, tmp_path / "c.png", "C7H10O2").stat().st_size > 5000
    with pytest.raises(ValueError, match="two isomers"):
        plot_isomers([1.0], [1.0], tmp_path / "d.png")


def test_a_folder_without_a_finished_run_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="metrics.json is missing"):
        read_errors(tmp_path)
    (tmp_path / "metrics.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="predictions.npz is missing"):
        read_errors(tmp_path)


def call(words):
    pytest.importorskip("jsonargparse")
    names = ["CH4", "H2O", "CH3CH2OH", "C6H6", "NH3", "CH3OCH3", "N2", "CO", "O2", "CH3OCH3"]
    options = parsers()["errors"].parse_args(words)
    return run("errors", options, lambda name, index: [molecule(one) for one in names])


def test_each_kind_is_a_command(of_energy, of_forces, tmp_path):
    data = tmp_path / "data.xyz"
    data.touch()
    ends = ["--structure", str(data), "--out", str(tmp_path / "a.png")]
    written = call(["--run", str(of_forces), "--out", str(tmp_path / "a.png")])
    assert [path.name for path in written] == ["a.png", "a-energy.csv", "a-forces.csv"]
    assert all(path.is_file() for path in written)
    for kind in ("size", "curve"):
        assert call(["--run", str(of_forces), "--kind", kind, *ends]) == [tmp_path / "a.png"]
    # Rows 5 and 9 are ethers; row 2, ethanol, is not in the test set.
    isomers = ["--run", str(of_energy), "--kind", "isomers", *ends]
    for words in ([], ["--formula", "C2OH6"]):
        (tmp_path / "a.png").unlink()
        assert call([*isomers, *words]) == [tmp_path / "a.png"]
        assert (tmp_path / "a.png").stat().st_size > 5000
    for words, message in (
        ([*isomers, "--formula", "CH4"], "two isomers"),
        (["--run", str(of_forces), "--kind", "isomers", "--property", "forces"], "one number each"),
        (["--run", str(of_energy), "--kind", "size"], "--structure"),
        (["--run", str(of_energy), "--kind", "size", "--property", "x"], "--property must be"),
        (["--run", str(of_energy), "--kind", "sizes"], "--kind must be"),
    ):
        with pytest.raises(ValueError, match=message):
            call(words)
    options = parsers()["errors"].parse_args(["--run", str(of_energy), "--kind", "size", *ends])
    with pytest.raises(ValueError, match="whole data set"):
        run("errors", options, lambda name, index: [molecule("H2O")])


def test_the_worst_structures_are_drawn(of_energy, tmp_path):
    pytest.importorskip("rdkit")
    (tmp_path / "data.xyz").touch()
    words = ["--run", str(of_energy), "--kind", "outliers", "--count", "2"]
    words += ["--structure", str(tmp_path / "data.xyz"), "--out", str(tmp_path / "a.svg")]
    assert call(words) == [tmp_path / "a.svg"]
    assert (tmp_path / "a.svg").read_text().count("class='legend'") > 10
