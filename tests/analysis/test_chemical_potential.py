import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.io.cube import read_cube_data
from helpers import cosine, dense, methanol, skewed_crystal, small_schnet, ssp
from torch_geometric.data import Data

from pyg_schnet import DTNN, Potential, pretrained
from pyg_schnet.analysis.chemical_potential import (
    PotentialMap,
    isolated_contribution,
    local_chemical_potential,
    plot_plane,
    plot_surface,
    potential_on_grid,
    potential_on_surface,
)
from pyg_schnet.analysis.points import (
    Grid,
    box_grid,
    cell_grid,
    molecular_plane,
    plane_grid,
    plane_through,
)
from pyg_schnet.analysis.probe import sent_features
from pyg_schnet.analysis.structure import Structure
from pyg_schnet.analysis.volume_files import write_cube, write_vtk
from pyg_schnet.graph import neighbor_edges

ATOMREF = torch.linspace(-3.0, 3.0, 100, dtype=torch.float64)
SCHNETS = {
    "cosine": {},
    "tabulated": {"filters": "tabulated"},
    "hard": {"cutoff_fn": "hard"},
    "none": {"cutoff_fn": "none", "filter_activation": "ssp"},
    "normalized": {"normalize": "neighbors"},
    "shared": {"shared_filters": True},
    "constants": {"mean": -2.5, "std": 3.0, "atomref": ATOMREF},
    "dipole": {"head": "dipole"},
    "spatial_extent": {"head": "spatial_extent"},
    "polarizability": {"head": "polarizability"},
    "softmax": {"head": "softmax"},
}
DTNNS = {
    "dtnn": {},
    "dtnn cosine": {"cutoff_fn": "cosine", "tied": False},
    "dtnn linear": {"activation": "linear", "tied": False},
}
CASES = [*SCHNETS, *DTNNS]


def model_of(case):
    if case in SCHNETS:
        return small_schnet(**SCHNETS[case])
    options = {"cutoff": 4.0, "num_interactions": 2, "hidden_channels": 8, "num_factors": 9}
    return DTNN(**options, **DTNNS[case], seed=3, mean=-1.0).double().eval()


def points_about(data, count=7, seed=4):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return (data.pos.mean(0) + 2.0 * noise).numpy()


def with_a_deaf_neighbourhood(model, data, point, number):
    """The probe as one more atom of the model's own input, from which no edge comes."""
    z = torch.cat([data.z, torch.tensor([number])])
    pos = torch.cat([data.pos, torch.as_tensor(point)[None]])
    cell, pbc = data.get("cell"), data.get("pbc")
    alone = model.cutoff_fn == "none" and cell is None
    edges, shift = neighbor_edges(pos, None if alone else model.cutoff, cell=cell, pbc=pbc)
    heard = edges[0] != len(data.z)
    out = model.atomwise(
        z, pos, edge_index=edges[:, heard], cell=cell, cell_shift=shift[heard], pbc=pbc
    )
    return float(out[-1, 0].detach())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("make", [methanol, skewed_crystal])
def test_the_probe_is_an_atom_that_sends_nothing(case, make):
    model, data = model_of(case), make()
    points = points_about(data)
    found = local_chemical_potential(model, data, points, 8)
    wanted = [with_a_deaf_neighbourhood(model, data, point, 8) for point in points]
    assert np.ptp(wanted) > 1e-4
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-10)


def test_the_definition_number_by_number():
    """Water and a probe by the formulas alone, in plain Python."""
    model = small_schnet(mean=-1.5, std=2.0, atomref=ATOMREF)
    z, pos = [8, 1, 1], [[0.0, 0.0, 0.1], [0.0, 0.8, -0.5], [0.1, -0.7, -0.5]]
    point, number = [0.7, 0.6, 1.1], 6
    basis = model.distance_expansion
    x = [model.embedding.weight[k].tolist() for k in [*z, number]]
    places = [*pos, point]
    for block in model.interactions:
        first, last = block.conv.nn[0], block.conv.nn[2]
        sent = [dense(block.conv.lin1, row) for row in x]
        changes = []
        for i, place in enumerate(places):
            total = [0.0] * model.num_filters
            for j in range(3):  # the probe, the fourth, is never a source
                if j == i:
                    continue
                d = math.dist(place, places[j])
                gaussians = [
                    math.exp(-float(basis.gamma) * (d - mu) ** 2) for mu in basis.offset.tolist()
                ]
                w = dense(last, [ssp(v) for v in dense(first, gaussians)])
                f = cosine(d, model.cutoff)
                total = [t + s * v * f for t, s, v in zip(total, sent[j], w)]
            inner = [ssp(v) for v in dense(block.conv.lin2, total)]
            changes.append(dense(block.lin, inner))
        x = [[a + b for a, b in zip(row, change)] for row, change in zip(x, changes)]
    hidden = [ssp(v) for v in dense(model.readout.lin1, x[-1])]
    wanted = 2.0 * dense(model.readout.lin2, hidden)[0] - 1.5 + float(ATOMREF[number])
    data = Data(z=torch.tensor(z), pos=torch.tensor(pos, dtype=torch.float64))
    found = local_chemical_potential(model, data, np.array([point]), "C")
    np.testing.assert_allclose(found, [wanted], rtol=1e-10)


@pytest.mark.parametrize("case", ["cosine", "hard", "normalized", "constants", "dtnn cosine"])
def test_far_away_the_probe_is_an_isolated_atom(case):
    model, data = model_of(case), methanol()
    far = local_chemical_potential(model, data, np.array([[30.0, 0.0, 0.0]]), 7)[0]
    alone = float(model(torch.tensor([7]), torch.zeros(1, 3, dtype=torch.float64)).detach())
    assert far == pytest.approx(alone, rel=1e-12)
    assert isolated_contribution(model, "N") == pytest.approx(alone, rel=1e-12)
    near = local_chemical_potential(model, data, np.array([[1.0, 1.0, 1.0]]), 7)[0]
    assert abs(near - alone) > 1e-3


def test_the_scale_of_the_property_is_that_of_the_potential():
    model = small_schnet(mean=-2.0)
    with torch.no_grad():
        model.readout.scale.fill_(1000.0)
    alone = float(model(torch.tensor([6]), torch.zeros(1, 3, dtype=torch.float64)).detach())
    assert isolated_contribution(model, 6) == pytest.approx(alone, rel=1e-12)


def test_several_probes_and_small_blocks_give_the_same():
    model, data = small_schnet(), skewed_crystal()
    points = points_about(data, 23)
    both = local_chemical_potential(model, data, points, ["H", 8])
    assert both.shape == (2, 23)
    for row, element in zip(both, (1, "O")):
        one = local_chemical_potential(model, data, points, element, edges_at_once=50)
        np.testing.assert_allclose(row, one, rtol=1e-12)


def test_a_channel_of_several_properties():
    model = small_schnet(out_channels=2)
    data, points = methanol(), points_about(methanol())
    z = torch.cat([data.z, torch.tensor([1])])
    pos = torch.cat([data.pos, torch.as_tensor(points[:1])])
    edges, _ = neighbor_edges(pos, model.cutoff)
    edges = edges[:, edges[0] != len(data.z)]
    wanted = model.atomwise(z, pos, edge_index=edges)[-1].tolist()
    for channel in range(2):
        found = local_chemical_potential(model, data, points[:1], 1, channel=channel)
        assert found[0] == pytest.approx(wanted[channel], rel=1e-10)


@pytest.mark.parametrize("case", ["cosine", "none", "dtnn"])
def test_it_has_the_symmetry_of_the_molecule(case):
    """Benzene, D6h: a sixth of a turn, a mirror through two atoms, and the plane of the ring."""
    model = model_of(case)
    ring = [(r * math.cos(a), r * math.sin(a), 0.0) for r in (1.39, 2.48) for a in _sixths()]
    data = Data(
        z=torch.tensor([6] * 6 + [1] * 6), pos=torch.tensor(ring, dtype=torch.float64).view(-1, 3)
    )
    points = points_about(data, 40)
    c, s = math.cos(math.pi / 3), math.sin(math.pi / 3)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    wanted = local_chemical_potential(model, data, points, 6)
    assert np.ptp(wanted) > 1e-3
    for operation in (turn, np.diag([1.0, -1.0, 1.0]), np.diag([1.0, 1.0, -1.0]), -np.eye(3)):
        found = local_chemical_potential(model, data, points @ operation.T, 6)
        np.testing.assert_allclose(found, wanted, atol=1e-10)


def test_the_potential_of_the_trained_benzene_has_its_symmetry():
    model = pretrained("md17-benzene")
    ring = [(r * math.cos(a), r * math.sin(a), 0.0) for r in (1.397, 2.484) for a in _sixths()]
    benzene = Atoms("C6H6", ring)
    points = np.random.default_rng(0).normal(scale=2.0, size=(200, 3))
    wanted = local_chemical_potential(model, benzene, points, "C")
    c, s = math.cos(math.pi / 3), math.sin(math.pi / 3)
    turned = points @ np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]).T
    found = local_chemical_potential(model, benzene, turned, "C")
    np.testing.assert_allclose(found, wanted, atol=1e-5 * np.ptp(wanted))


def _sixths():
    return [math.pi / 3 * k for k in range(6)]


@pytest.mark.parametrize("case", ["cosine", "none", "dtnn"])
def test_it_repeats_with_the_lattice(case):
    model, data = model_of(case), skewed_crystal()
    points = points_about(data)
    wanted = local_chemical_potential(model, data, points, 6)
    for shift in ([1, 0, 0], [0, -2, 1], [7, 5, -9]):
        moved = points + np.array(shift) @ data.cell[0].numpy()
        found = local_chemical_potential(model, data, moved, 6)
        np.testing.assert_allclose(found, wanted, rtol=1e-10)


def test_it_repeats_only_along_periodic_directions():
    model, data = small_schnet(), skewed_crystal()
    data.pbc = torch.tensor([[True, False, True]])
    points = points_about(data)
    found = local_chemical_potential(model, data, points, 6)
    wanted = [with_a_deaf_neighbourhood(model, data, point, 6) for point in points]
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    cell = data.cell[0].numpy()
    again = local_chemical_potential(model, data, points + cell[0] - 3 * cell[2], 6)
    np.testing.assert_allclose(again, found, rtol=1e-10)
    elsewhere = local_chemical_potential(model, data, points + cell[1], 6)
    assert np.abs(elsewhere - found).max() > 1e-3


def test_a_supercell_has_the_potential_of_its_cell():
    model, data = small_schnet(), skewed_crystal()
    cell = data.cell[0]
    double = Data(
        z=data.z.repeat(2),
        pos=torch.cat([data.pos, data.pos + cell[1]]),
        cell=cell * torch.tensor([[1.0], [2.0], [1.0]], dtype=torch.float64),
        pbc=data.pbc,
    )
    points = points_about(data)
    np.testing.assert_allclose(
        local_chemical_potential(model, double, points, 1),
        local_chemical_potential(model, data, points, 1),
        rtol=1e-10,
    )


def test_float32_by_tables_is_float64_by_networks():
    model = pretrained("md17-ethanol")
    ethanol = molecule("CH3CH2OH")
    points = box_grid(ethanol, 2.0, 0.7).points
    fast = local_chemical_potential(model, ethanol, points, "O")
    exact = local_chemical_potential(model.double(), ethanol, points, "O")
    np.testing.assert_allclose(fast, exact, atol=1e-5 * np.ptp(exact))


def test_a_probe_cannot_see_into_what_it_does_not_know():
    data, points = methanol(), points_about(methanol())
    with pytest.raises(ValueError, match="interaction_graph"):
        alone = small_schnet(interaction_graph=lambda pos, batch: None)
        local_chemical_potential(alone, data, points, 1)
    with pytest.raises(ValueError, match="more neighbours than max_num_neighbors=2"):
        capped = small_schnet(max_num_neighbors=2)
        with pytest.warns(UserWarning):
            local_chemical_potential(capped, data, points, 1)
    with pytest.raises(ValueError, match="no contributions"):
        local_chemical_potential(small_schnet(head="set2set"), data, points, 1)
    watched = small_schnet()
    watched.interactions[0].conv.register_message_forward_hook(lambda *arguments: None)
    with pytest.raises(ValueError, match="own interactions"):
        local_chemical_potential(watched, data, points, 1)
    with pytest.raises(ValueError, match="SchNet or DTNN"):
        local_chemical_potential(torch.nn.Linear(1, 1), data, points, 1)
    with pytest.raises(ValueError, match="shape"):
        local_chemical_potential(small_schnet(), data, points[:, :2], 1)
    with pytest.raises(ValueError, match="finite"):
        local_chemical_potential(small_schnet(), data, points * np.inf, 1)
    with pytest.raises(ValueError, match="'Xx' is no element"):
        local_chemical_potential(small_schnet(), data, points, "Xx")


def test_looking_leaves_the_model_as_it_was():
    model, data = small_schnet(), methanol()
    before = model(data.z, data.pos)
    sent = sent_features(model, Structure.of(data))
    assert [tuple(x.shape) for x in sent] == [(6, 12), (6, 12)]
    local_chemical_potential(Potential(model), data, points_about(data), 1)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(model(data.z, data.pos), before)


def test_grids_lie_where_they_are_asked_for():
    water = molecule("H2O")
    box = box_grid(water, margin=1.0, spacing=0.3)
    low, high = box.points.min(0), box.points.max(0)
    assert (low <= water.positions.min(0) - 1.0 + 1e-9).all()
    assert (high >= water.positions.max(0) + 1.0 - 1e-9).all()
    middle = 0.5 * (water.positions.min(0) + water.positions.max(0))
    np.testing.assert_allclose(0.5 * (low + high), middle, atol=1e-9)
    through = plane_through([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0]], size=(2.0, 3.0), spacing=0.5)
    assert through.shape == (5, 7) and through.lengths == pytest.approx((2.0, 3.0))
    np.testing.assert_allclose(through.points.sum(1), 1.0)
    along = (through.points[7] - through.points[0]) / 0.5
    np.testing.assert_allclose(along, np.array([-1.0, 1.0, 0.0]) / math.sqrt(2), atol=1e-12)
    cell = skewed_crystal()
    grid = cell_grid(cell, 0.5)
    np.testing.assert_allclose(grid.steps * np.array(grid.shape)[:, None], cell.cell[0].numpy())
    assert molecular_plane(water).points[:, 0] == pytest.approx(0.0, abs=1e-9)
    for wrong in (
        lambda: plane_grid([0, 0, 0], [0, 0, 0]),
        lambda: plane_grid([0, 0, 0], [0, 0, 1], along=[0, 0, 2]),
        lambda: plane_through([[0, 0, 0], [1, 0, 0], [2, 0, 0]]),
        lambda: plane_through([[0, 0, 0], [1, 0, 0]]),
        lambda: box_grid(water, spacing=0.0),
        lambda: box_grid(water, margin=-1.0),
        lambda: cell_grid(water),
        lambda: molecular_plane(Atoms("H")),
    ):
        with pytest.raises(ValueError):
            wrong()


def test_cube_and_vtk_files_hold_the_numbers(tmp_path):
    model, water = small_schnet(), molecule("H2O")
    found = potential_on_grid(model, water, box_grid(water, 0.5, 0.6), "O")
    data, atoms = read_cube_data(str(write_cube(found, water, tmp_path / "a.cube")))
    np.testing.assert_allclose(data, found.values, rtol=1e-6)
    np.testing.assert_allclose(atoms.positions, water.positions, atol=1e-5)
    np.testing.assert_allclose(
        atoms.cell.array, np.diag(np.array(found.grid.shape) * 0.6), atol=1e-4
    )
    lines = write_vtk(found, tmp_path / "a.vtk").read_text().splitlines()
    shape = found.grid.shape
    assert lines[4] == "DIMENSIONS {} {} {}".format(*shape)
    assert lines[5].split()[1:] == [f"{x:.10g}" for x in found.grid.origin]
    values = np.array([float(line) for line in lines[lines.index("LOOKUP_TABLE default") + 1 :]])
    np.testing.assert_allclose(values.reshape(shape, order="F"), found.values, rtol=1e-9)


def test_vtk_files_of_skewed_cells_and_planes_name_each_point(tmp_path):
    crystal = skewed_crystal()
    grid = cell_grid(crystal, 2.0)
    values = np.arange(grid.points.shape[0], dtype=float).reshape(grid.shape)
    lines = write_vtk(PotentialMap(grid, values, 6, 0.0, "eV"), tmp_path / "a.vtk").read_text()
    lines = lines.splitlines()
    assert lines[3] == "DATASET STRUCTURED_GRID"
    count = len(values.ravel())
    assert lines[5] == f"POINTS {count} double"
    points = np.array([[float(x) for x in line.split()] for line in lines[6 : 6 + count]])
    numbers = np.array([int(float(line)) for line in lines[-count:]])
    np.testing.assert_allclose(points, grid.points[numbers], rtol=1e-9, atol=1e-9)
    plane = PotentialMap(Grid(np.zeros(3), np.eye(3)[:2], (2, 3)), np.zeros((2, 3)), 6, 0.0, "eV")
    text = write_vtk(plane, tmp_path / "b.vtk").read_text()
    assert "DIMENSIONS 2 3 1" in text
    with pytest.raises(ValueError, match="box"):
        write_cube(plane, crystal, tmp_path / "c.cube")


def test_the_picture_of_a_plane_is_drawn(tmp_path):
    model, data = small_schnet(), skewed_crystal()
    grid = plane_grid([1.0, 1.0, 1.0], [0, 0, 1], 4.0, 0.5)
    maps = [potential_on_grid(model, data, grid, probe) for probe in ("H", "C")]
    written = plot_plane(maps, data, tmp_path / "new" / "a.png")
    assert written.stat().st_size > 5000 and not list(tmp_path.glob("new/*.part*"))
    assert plot_plane(maps[0], data, tmp_path / "a.pdf", limits=(-1, 1)).read_bytes()[:4] == b"%PDF"
    with pytest.raises(ValueError, match="a.txt"):
        plot_plane(maps[0], data, tmp_path / "a.txt")
    box = potential_on_grid(model, data, cell_grid(data, 3.0), "H")
    with pytest.raises(ValueError, match="two directions"):
        plot_plane(box, data, tmp_path / "b.png")


def test_the_surface_lies_at_its_level_and_its_potential_is_drawn(tmp_path):
    pytest.importorskip("skimage.measure")
    from pyg_schnet.analysis.isosurface import molecular_surface

    benzene = molecule("C6H6")
    found = potential_on_surface(small_schnet(), benzene, "C", spacing=0.4)
    vertices = found.surface.vertices
    away = np.linalg.norm(vertices[:, None] - benzene.positions, axis=2)
    np.testing.assert_allclose((away**-2.0).sum(1), 3.7, rtol=1e-9)
    assert found.values.shape == (len(vertices),)
    text = write_vtk(found, tmp_path / "a.vtk").read_text()
    assert f"POLYGONS {len(found.surface.faces)} {4 * len(found.surface.faces)}" in text
    assert plot_surface(found, tmp_path / "a.png").stat().st_size > 5000
    one = molecular_surface(Atoms("He"), level=4.0, spacing=0.1)
    np.testing.assert_allclose(np.linalg.norm(one.vertices, axis=1), 0.5, rtol=1e-9)
    corners = one.vertices[one.faces]
    crossed = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = 0.5 * np.linalg.norm(crossed, axis=1).sum()
    assert area == pytest.approx(4 * math.pi * 0.25, rel=0.02)
    with pytest.raises(ValueError, match="infinite"):
        molecular_surface(skewed_crystal())
    with pytest.raises(ValueError, match="level"):
        molecular_surface(benzene, level=0.0)


def test_without_marching_cubes_the_mend_is_named(monkeypatch):
    from pyg_schnet.analysis import isosurface

    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(isosurface.importlib, "import_module", missing)
    with pytest.raises(ImportError, match="pip install scikit-image"):
        isosurface.molecular_surface(molecule("H2O"), spacing=0.5)
