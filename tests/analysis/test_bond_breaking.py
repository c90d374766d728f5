import numpy as np
import pytest
import torch
from helpers import small_schnet

from pyg_schnet import DTNN, Ensemble
from pyg_schnet.analysis.bond_breaking import dimer_curves, plot_dimer


def members(count=3):
    return [small_schnet(seed=seed, mean=-1.0) for seed in range(count)]


def test_curves_are_energies_of_dimers():
    models, d = [*members(2), DTNN(8, 9, 2, 12, 4.0, seed=0).double()], np.array([0.5, 1.3, 3.9])
    found = dimer_curves(models, ("O", 6), d)
    assert found.elements == (8, 6) and found.unit == "eV"
    for m, model in enumerate(models):
        for k, distance in enumerate(d):
            pos = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=torch.float64)
            one = float(model(torch.tensor([8, 6]), pos).detach())
            assert found.energies[m, k] == pytest.approx(one, rel=1e-10)
        alone = sum(float(model(torch.tensor([n]), pos[:1]).detach()) for n in (8, 6))
        assert found.isolated[m] == pytest.approx(alone, rel=1e-10)
    np.testing.assert_allclose(found.mean, found.energies.mean(0))
    np.testing.assert_allclose(found.spread, found.energies.std(0, ddof=1))


def test_beyond_the_cutoff_the_atoms_are_alone():
    found = dimer_curves(members(2), (1, 1))
    far = found.distances >= 4.0
    assert found.distances[0] == pytest.approx(0.4) and found.distances[-1] == pytest.approx(6.0)
    np.testing.assert_allclose(
        found.energies[:, far], np.tile(found.isolated[:, None], far.sum()), rtol=1e-12
    )


def test_relative_curves_end_at_zero_and_keep_their_shapes():
    found = dimer_curves(members(2), ("C", "N"))
    curves = found.relative()
    np.testing.assert_allclose(curves.energies[:, found.distances > 4.0], 0.0, atol=1e-12)
    np.testing.assert_allclose(np.diff(curves.energies), np.diff(found.energies), atol=1e-12)
    np.testing.assert_array_equal(curves.isolated, [0.0, 0.0])


def test_an_ensemble_is_its_members():
    models, d = members(3), np.linspace(0.6, 3.0, 5)
    wanted = dimer_curves(models, ("C", "H"), d)
    found = dimer_curves(Ensemble(models), ("C", "H"), d)
    np.testing.assert_allclose(found.energies, wanted.energies)
    assert dimer_curves(models[0], ("C", "H"), d).spread.tolist() == [0.0] * 5


def test_pictures_are_drawn_and_mistakes_named(tmp_path):
    found = dimer_curves(members(3), ("C", "H"))
    reference = np.array([1.0, 1.1, 1.2]), np.array([-1.0, -1.2, -1.1])
    written = plot_dimer(found, tmp_path / "a.png", reference=reference)
    assert written.stat().st_size > 5000
    one = dimer_curves(members(1), ("C", "H"))
    assert plot_dimer(one, tmp_path / "b.pdf").read_bytes()[:4] == b"%PDF"
    for wrong, word in (
        (lambda: dimer_curves([], (1, 1)), "empty"),
        (lambda: dimer_curves(members(1), (1, 1), np.array([0.0])), "above 0"),
        (lambda: dimer_curves(members(1), (1, "Q")), "no element"),
        (lambda: dimer_curves(small_schnet(out_channels=2), (1, 1)), "predicts 2"),
    ):
        with pytest.raises(ValueError, match=word):
            wrong()
