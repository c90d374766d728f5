import numpy as np
import pytest
import torch
from torch.testing import assert_close

from pyg_schnet.training.batches import MoleculeTable
from pyg_schnet.training.statistics import baselines, dressed_atoms, offsets

ELEMENTS = {1: -13.6, 6: -1030.0, 8: -2042.0}


def made_up(count=40, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 6, count)
    z = rng.choice(list(ELEMENTS), sizes.sum())
    ptr = np.concatenate([[0], sizes.cumsum()])
    y = [sum(ELEMENTS[k] for k in z[a:b]) for a, b in zip(ptr, ptr[1:], strict=False)]
    y = np.array(y) + noise * rng.normal(size=count)
    return MoleculeTable(
        torch.from_numpy(z),
        torch.rand(len(z), 3),
        torch.from_numpy(ptr),
        torch.from_numpy(y)[:, None],
    )


def test_dressed_atoms_find_the_energies_of_the_elements():
    fit = dressed_atoms(made_up(), torch.arange(40))
    for z, energy in ELEMENTS.items():
        assert fit[z].item() == pytest.approx(energy, rel=1e-10)
    assert torch.count_nonzero(fit) == len(ELEMENTS)


def test_isomers_do_not_break_the_regression():
    table = made_up()
    fit = dressed_atoms(table, torch.tensor([0]))
    assert_close(table.composition()[:1] @ fit, table.y[:1])


def test_offsets_leave_a_residual_of_zero_mean_and_the_stated_spread():
    table = made_up(noise=0.3)
    rows = torch.arange(30)
    for kind in ("dressed", "mean"):
        known = offsets(table, rows, kind, "add")
        left = table.y[rows, 0] - (table.composition()[rows] @ known.atomref)[:, 0]
        per_atom = left / table.num_atoms[rows]
        assert known.mean == pytest.approx(float(per_atom.mean()), abs=1e-9)
        assert known.std == pytest.approx(float(per_atom.std()), rel=1e-9)


def test_single_atom_references_are_taken_as_given():
    table = made_up()
    atomref = torch.zeros(100, 1)
    atomref[6] = -1000.0
    known = offsets(table, torch.arange(40), "atomref", "add", atomref)
    assert_close(known.atomref, atomref.double())
    with pytest.raises(ValueError, match="no single-atom references"):
        offsets(table, torch.arange(40), "atomref", "add")


def per_atom():
    table = made_up()
    energy = table.y / table.num_atoms[:, None]
    return MoleculeTable(table.z, table.pos, table.ptr, energy)


def test_an_intensive_target_is_dressed_by_shares_of_the_composition():
    table = per_atom()
    known = offsets(table, torch.arange(30), "dressed", "mean")
    assert known.mean == pytest.approx(0.0, abs=1e-9)
    for z, energy in ELEMENTS.items():
        assert known.atomref[z].item() == pytest.approx(energy, rel=1e-9)
    # What does not occur is as the mean, not as nothing.
    assert known.atomref[92].item() == pytest.approx(float(table.y[:30].mean()))
    mean, dressed = baselines(table, torch.arange(30), torch.arange(30, 40), "mean")
    assert_close(dressed, table.y[30:, 0])
    assert_close(mean[0], table.y[:30].mean())


def test_an_intensive_target_has_its_own_mean():
    table = per_atom()
    known = offsets(table, torch.arange(40), "mean", "mean")
    assert known.mean == pytest.approx(float(table.y.mean()))
    assert torch.count_nonzero(known.atomref) == 0


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="offsets must be"):
        offsets(made_up(), torch.arange(4), "best", "add")


def test_baselines_are_fitted_on_the_training_rows_alone():
    table = made_up(noise=0.3)
    train, test = torch.arange(30), torch.arange(30, 40)
    mean, dressed = baselines(table, train, test)
    assert_close(mean, table.y[train, 0].mean().expand(10))
    counts = table.composition().numpy()
    fit = np.linalg.lstsq(counts[:30], table.y[:30, 0].numpy(), rcond=None)[0]
    assert_close(dressed, torch.from_numpy(counts[30:] @ fit))
