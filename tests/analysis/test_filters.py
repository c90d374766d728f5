import math
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import read
from helpers import cosine, dense, skewed_crystal, small_schnet, ssp

from pyg_schnet import DTNN
from pyg_schnet.analysis.filters import (
    filter_curves,
    filter_cut,
    periodic_filter_map,
    periodic_filters,
    plot_filter_curves,
    plot_filter_map,
)
from pyg_schnet.analysis.points import plane_grid
from pyg_schnet.graph import neighbor_edges


def dtnn(**options):
    return DTNN(8, 9, 2, 12, 4.0, seed=0, **options).double()


def filter_by_hand(model, layer, d):
    network = model.interactions[layer].conv.nn
    gamma, centres = float(model.distance_expansion.gamma), model.distance_expansion.offset.tolist()
    gaussians = [math.exp(-gamma * (d - mu) ** 2) for mu in centres]
    w = dense(network[2], [ssp(v) for v in dense(network[0], gaussians)])
    return np.array(w) * cosine(d, model.cutoff)


@pytest.mark.parametrize("filters", ["exact", "tabulated"])
def test_curves_are_the_networks_times_the_cutoff(filters):
    model = small_schnet(filters=filters)
    distances = np.array([0.0, 0.7, 1.9, 3.999, 4.5])
    found = filter_curves(model, distances)
    assert found.values.shape == (2, 5, 10)
    for layer in range(2):
        for k, d in enumerate(distances):
            wanted = filter_by_hand(model, layer, d)
            np.testing.assert_allclose(found.values[layer, k], wanted, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(found.cutoff, [cosine(d, 4.0) for d in distances], atol=1e-14)


def test_by_default_they_run_from_zero_to_the_cutoff():
    found = filter_curves(small_schnet())
    assert found.distances[0] == 0.0 and found.distances[-1] == 4.0 and len(found.distances) == 201
    assert np.abs(found.values[:, -1]).max() < 1e-15
    shared = filter_curves(small_schnet(shared_filters=True))
    assert len(shared.values) == 1


def test_filters_of_a_dtnn_are_the_factors_of_its_distances():
    model, distances = dtnn(), np.array([0.9, 2.5])
    found = filter_curves(model, distances)
    assert found.values.shape == (1, 2, 9)  # one interaction for both passes
    layer, basis = model.interactions[0], model.distance_expansion
    for k, d in enumerate(distances):
        gaussians = [math.exp(-float(basis.gamma) * (d - mu) ** 2) for mu in basis.offset.tolist()]
        wanted = dense(layer.lin_distance, gaussians)
        np.testing.assert_allclose(found.values[0, k], wanted, rtol=1e-9)
    assert filter_curves(dtnn(tied=False)).values.shape[0] == 2
    faded = filter_curves(dtnn(cutoff_fn="cosine"), distances)
    factor = [cosine(d, 4.0) for d in distances]
    np.testing.assert_allclose(faded.cutoff, factor, rtol=1e-12)


def test_a_cut_is_a_curve_turned_about_the_atom():
    model = small_schnet()
    found = filter_cut(model, 1, [3, 7], size=4.0, spacing=0.5)
    assert found.values.shape == (2, 9, 9) and found.filters.tolist() == [3, 7]
    assert found.grid.points.min() == -2.0 and found.grid.points.max() == 2.0
    for i, j in ((0, 0), (2, 7), (4, 4)):
        d = math.hypot(-2.0 + 0.5 * i, -2.0 + 0.5 * j)
        wanted = filter_by_hand(model, 1, d)[[3, 7]]
        np.testing.assert_allclose(found.values[:, i, j], wanted, rtol=1e-9)


@pytest.mark.parametrize("model", [small_schnet(), dtnn()], ids=["schnet", "dtnn"])
def test_filters_of_a_lattice_repeat_with_it(model):
    crystal = skewed_crystal()
    points = torch.randn(9, 3, dtype=torch.float64).numpy()
    wanted = periodic_filters(model, crystal, points)
    moved = points + np.array([2, -1, 5]) @ crystal.cell[0].numpy()
    np.testing.assert_allclose(periodic_filters(model, crystal, moved), wanted, rtol=1e-9)
    away = np.array([n for n in np.ndindex(7, 7, 7)]) - 3
    images = away @ crystal.cell[0].numpy()
    d = np.linalg.norm(points[:, None] + images, axis=2)
    curves = filter_curves(model, d.ravel()).values[0].reshape(*d.shape, -1)
    by_hand = (curves * (d < 4.0)[..., None]).sum(1)
    np.testing.assert_allclose(wanted, by_hand, rtol=1e-9)


STRUCTURES = Path(__file__).resolve().parents[2] / "docs" / "structures"
# Diamond: about a cubic axis, a body diagonal, and a mirror. Graphite: about c, and two mirrors.
POINT_GROUPS = {
    "diamond": [[[0, -1, 0], [1, 0, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
                [[0, 1, 0], [1, 0, 0], [0, 0, 1]]],
    "graphite": [[[0.5, -math.sqrt(0.75), 0], [math.sqrt(0.75), 0.5, 0], [0, 0, 1]],
                 [[1, 0, 0], [0, -1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, -1]]],
}  # fmt: skip


@pytest.mark.parametrize("name", POINT_GROUPS)
def test_periodic_filters_have_the_symmetry_of_the_lattice(name):
    """That of the lattice points, which is that of the crystal or more."""
    model, crystal = small_schnet(cutoff=6.0), read(STRUCTURES / f"{name}.extxyz")
    points = np.random.default_rng(0).normal(size=(7, 3))
    wanted = periodic_filters(model, crystal, points)
    assert wanted.std(axis=0).min() > 1e-3
    for turn in POINT_GROUPS[name]:
        np.testing.assert_allclose(
            periodic_filters(model, crystal, points @ np.array(turn).T), wanted, atol=1e-6
        )
    grid = plane_grid([0.0, 0.0, 0.0], [0.0, 0.0, 1.0], 10.0, 0.5)
    found = periodic_filter_map(model, crystal, grid, 1, [0, 3])
    assert found.values.shape == (2, 21, 21)
    np.testing.assert_allclose(found.values, found.values[:, ::-1, ::-1], atol=1e-9)


def test_the_convolution_over_a_crystal_is_one_with_its_periodic_filters():
    """Of a lattice of one atom: all its neighbours are images of itself."""
    model = small_schnet()
    copper = bulk("Cu", a=2.5, cubic=False)
    cell = torch.as_tensor(copper.cell.array)
    z, pos = torch.tensor([29]), torch.zeros(1, 3, dtype=torch.float64)
    edges, shift = neighbor_edges(pos, 4.0, cell=cell)
    conv, d = model.interactions[0].conv, torch.linalg.vector_norm(shift.double() @ cell, dim=1)
    x = model.embedding(z)
    summed = conv.convolve(x, edges, d, model.distance_expansion(d))
    filters = periodic_filters(model, copper, np.zeros((1, 3)))
    itself = filter_curves(model, np.zeros(1)).values[0]
    wanted = conv.lin1(x).detach().numpy() * (filters - itself)
    np.testing.assert_allclose(summed.detach().numpy(), wanted, rtol=1e-9)


def test_pictures_are_drawn_and_what_is_not_there_is_named(tmp_path):
    model, crystal = small_schnet(), skewed_crystal()
    assert plot_filter_curves(filter_curves(model), tmp_path / "a.png").stat().st_size > 5000
    cut = filter_cut(model, spacing=0.5)
    assert cut.filters.tolist() == [0, 1, 2, 3, 4, 5]
    grid = plane_grid([0, 0, 0], [0, 0, 1], 6.0, 0.5)
    lattice = periodic_filter_map(model, crystal, grid, 1, [9, 0])
    wanted = periodic_filters(model, crystal, grid.points[13:14], 1)[0, [9, 0]]
    np.testing.assert_allclose(lattice.values[:, 1, 0], wanted, rtol=1e-9)
    written = plot_filter_map([cut, lattice], tmp_path / "b.pdf", "filters")
    assert written.read_bytes()[:4] == b"%PDF"
    for wrong, word in (
        (lambda: filter_cut(model, 2), "layer must lie in 0..1"),
        (lambda: filter_cut(model, 0, [10]), "filters must lie in 0..9"),
        (lambda: periodic_filters(model, crystal, np.zeros((1, 2))), "shape"),
        (lambda: periodic_filters(model, bulk("Cu").copy(), np.zeros((1, 3)), 7), "layer"),
        (lambda: filter_curves(small_schnet(num_interactions=0)), "without interactions"),
    ):
        with pytest.raises(ValueError, match=word):
            wrong()
    with pytest.raises(ValueError, match="no lattice"):
        periodic_filters(model, crystal.clone().update({"pbc": None, "cell": None}), grid.points)
