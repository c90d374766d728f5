import itertools

import numpy as np
import pytest
import torch
from ase.build import molecule
from helpers import methanol, skewed_crystal, small_schnet, water

from pyg_schnet import DTNN, Potential
from pyg_schnet.analysis import sensitivity
from pyg_schnet.analysis.sensitivity import (
    Sensitivity,
    binned_sensitivity,
    feature_jacobian,
    feature_sensitivity,
    nearest_distances,
    plot_sensitivity,
)
from pyg_schnet.analysis.structure import Structure

MODELS = {
    "schnet": lambda: small_schnet(),
    "none": lambda: small_schnet(cutoff_fn="none"),
    "tabulated": lambda: small_schnet(filters="tabulated"),
    "dtnn": lambda: DTNN(8, 9, 2, 12, 4.0, cutoff_fn="cosine", seed=0).double(),
}


def by_differences(model, data, step=1e-3):
    """Fourth-order central differences of all features, (N, H, N, 3)."""

    def features(pos):
        with torch.no_grad():
            given = {"cell": data.get("cell"), "pbc": data.get("pbc")}
            return model.features(data.z, pos, **given).numpy()

    atoms = len(data.z)
    out = np.empty((atoms, model.hidden_channels, atoms, 3))
    for j, k in itertools.product(range(atoms), range(3)):
        along = torch.zeros_like(data.pos)
        along[j, k] = step
        low2, low1, high1, high2 = (features(data.pos + n * along) for n in (-2, -1, 1, 2))
        out[:, :, j, k] = (low2 - 8 * low1 + 8 * high1 - high2) / (12 * step)
    return out


# Without a cutoff function features jump where images of a crystal enter the sphere.
PAIRS = [(case, methanol) for case in MODELS] + [
    (case, skewed_crystal) for case in MODELS if case != "none"
]


@pytest.mark.parametrize("case, make", PAIRS)
def test_the_jacobian_is_that_of_finite_differences(case, make):
    model, data = MODELS[case](), make()
    found = feature_jacobian(Potential(model), data)
    wanted = by_differences(model, data)
    assert np.abs(wanted).max() > 1e-2
    np.testing.assert_allclose(found, wanted, atol=1e-7)


def test_small_batches_of_copies_give_the_same(monkeypatch):
    model, data = small_schnet(), skewed_crystal()
    whole = feature_jacobian(model, data)
    monkeypatch.setattr(sensitivity, "_ATOMS_AT_ONCE", 21)
    np.testing.assert_allclose(feature_jacobian(model, data), whole, rtol=1e-12, atol=1e-15)


def test_sensitivities_are_lengths_of_blocks_of_the_jacobian():
    model, one, two = small_schnet(), water(), methanol()
    found = feature_sensitivity(model, [one, two])
    assert len(found.value) == 3 * 2 + 6 * 5
    jacobian = by_differences(model, one)
    row = 0
    for i, j in itertools.product(range(3), range(3)):
        if i == j:
            continue
        assert found.value[row] == pytest.approx(np.linalg.norm(jacobian[i, :, j]), rel=1e-6)
        assert found.distance[row] == pytest.approx(float((one.pos[i] - one.pos[j]).norm()))
        assert (found.centre[row], found.moved[row]) == (one.z[i], one.z[j])
        row += 1
    assert len(found.of("O", 1).value) == 2 + 4 and len(found.of(1, "H").value) == 2 + 12


def test_of_a_dimer_it_is_the_slope_of_the_features_along_the_distance():
    model = small_schnet()
    h2 = molecule("H2")
    d = h2.get_distance(0, 1)

    def features(distance):
        pos = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, distance]], dtype=torch.float64)
        return model.features(torch.tensor([1, 1]), pos).detach().numpy()[0]

    wanted = np.linalg.norm((features(d + 1e-5) - features(d - 1e-5)) / 2e-5)
    found = feature_sensitivity(model, [h2])
    np.testing.assert_allclose(found.value, [wanted, wanted], rtol=1e-7)


def test_beyond_what_interactions_reach_nothing_is_felt():
    model = small_schnet(num_interactions=2, cutoff=4.0)
    z = torch.tensor([6, 6, 6])
    pos = torch.tensor([[0.0, 0, 0], [3.0, 0, 0], [6.5, 0, 0]], dtype=torch.float64)
    found = feature_sensitivity(model, [Structure(z, pos)])
    far = found.value[np.isclose(found.distance, 6.5)]
    assert (far > 1e-8).all()  # by way of the atom between them
    alone = feature_sensitivity(model, [Structure(z[[0, 2]], pos[[0, 2]])])
    np.testing.assert_array_equal(alone.value, [0.0, 0.0])


def test_distances_of_a_crystal_are_to_the_nearest_image():
    data = skewed_crystal()
    found = nearest_distances(Structure.of(data))
    cell = data.cell[0].numpy()
    shifts = (np.array(list(np.ndindex(9, 9, 9))) - 4) @ cell
    away = data.pos.numpy()[None] - data.pos.numpy()[:, None]
    wanted = np.linalg.norm(away[:, :, None] + shifts, axis=3).min(2)
    np.testing.assert_allclose(found, wanted, atol=1e-12)


def test_bins_hold_medians_and_a_distribution_and_are_drawn(tmp_path):
    generator = np.random.default_rng(0)
    d = generator.uniform(0.5, 4.0, 3000)
    one = np.full(3000, 6)
    found = Sensitivity(one, one, d, np.exp(-d))
    middle, median, density = binned_sensitivity(found, 20)
    assert (density * d.max() / 20).sum() == pytest.approx(1.0)
    assert np.isnan(median[0]) and density[0] == 0.0
    inner = middle > 0.8
    np.testing.assert_allclose(median[inner], np.exp(-middle[inner]), rtol=0.03)
    some = feature_sensitivity(small_schnet(), [methanol()])
    assert plot_sensitivity(some, tmp_path / "a.png").stat().st_size > 5000
    written = plot_sensitivity(some, tmp_path / "b.pdf", [("C", "H"), ("H", "H")])
    assert written.read_bytes()[:4] == b"%PDF"
    with pytest.raises(ValueError, match="No atom C has an atom N"):
        plot_sensitivity(some, tmp_path / "c.png", [("C", "N")])
    with pytest.raises(ValueError, match="pairs and bins"):
        binned_sensitivity(some.of("N", "N"))
    with pytest.raises(ValueError, match="empty"):
        feature_sensitivity(small_schnet(), [])
