import re
import sys

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read
from helpers import small_schnet

from pyg_schnet.analysis.chemical_potential import PotentialMap, PotentialSurface
from pyg_schnet.analysis.commands import parsers, run
from pyg_schnet.analysis.embeddings import embedding_pca
from pyg_schnet.analysis.filters import filter_curves
from pyg_schnet.analysis.interactive import surface_figure, write_surface
from pyg_schnet.analysis.interactive_plots import (
    embeddings_figure,
    filters_figure,
    plane_figure,
)
from pyg_schnet.analysis.isosurface import Surface
from pyg_schnet.analysis.points import Grid


def tetrahedra():
    """One surface with two probes."""
    vertices = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0], [0, 0, 2]])
    faces = np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    surface = Surface(vertices, faces)
    values = np.array([-1.0, 0.5, 2.0, 4.0])
    return [PotentialSurface(surface, k * values, k, 0.0, "eV") for k in (1, 6)]


def test_meshes_hold_the_potential_and_buttons_choose_the_probe():
    pytest.importorskip("plotly")
    surfaces, water = tetrahedra(), molecule("H2O")
    figure = surface_figure(surfaces, water)
    *meshes, atoms = figure.data
    for mesh, one in zip(meshes, surfaces):
        np.testing.assert_array_equal(mesh.intensity, one.values)
        np.testing.assert_array_equal(np.stack([mesh.x, mesh.y, mesh.z], 1), one.surface.vertices)
        np.testing.assert_array_equal(np.stack([mesh.i, mesh.j, mesh.k], 1), one.surface.faces)
        assert mesh.cmin == pytest.approx(np.quantile(one.values, 0.02))
    np.testing.assert_allclose(np.stack([atoms.x, atoms.y, atoms.z], 1), water.positions)
    assert list(atoms.text) == ["O 0", "H 1", "H 2"]
    assert [mesh.visible for mesh in meshes] == [True, False]
    chosen = [button.args[0]["visible"] for button in figure.layout.updatemenus[0].buttons]
    assert chosen == [[True, False, True], [False, True, True]]
    assert not surface_figure(surfaces[0], water).layout.updatemenus


def test_the_page_needs_no_net(tmp_path):
    pytest.importorskip("plotly")
    path = write_surface(tetrahedra(), molecule("H2O"), tmp_path / "a.html")
    text = path.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and [*tmp_path.iterdir()] == [path]
    # The script of plotly is in the page, and no element loads another one.
    assert len(text) > 1_000_000
    assert not re.search(r"<script[^>]*\ssrc=", text) and "<link" not in text
    with pytest.raises(ValueError, match="as .html"):
        write_surface(tetrahedra(), molecule("H2O"), tmp_path / "a.png")
    with pytest.raises(ValueError, match="found is empty"):
        surface_figure([], molecule("H2O"))


def test_planes_embeddings_and_filters_hold_the_arrays():
    pytest.importorskip("plotly")
    steps = np.array([[0.5, 0, 0], [0, 0.4, 0]])
    grid = Grid(np.array([-1.0, -1.0, 0.0]), steps, (5, 6))
    values = np.arange(30.0).reshape(5, 6)
    maps = [PotentialMap(grid, sign * values, z, 0.0, "eV") for sign, z in ((1, 1), (-1, 8))]
    figure = plane_figure(maps, molecule("H2O"))
    first, second, atoms = figure.data
    np.testing.assert_array_equal(first.z, values.T)
    np.testing.assert_array_equal(second.z, -values.T)
    np.testing.assert_allclose(first.x, 0.5 * np.arange(5))
    np.testing.assert_allclose(first.y, 0.4 * np.arange(6))
    assert [button.label for button in figure.layout.updatemenus[0].buttons] == [
        "probe H",
        "probe O",
    ]
    assert list(atoms.text) == ["O", "H", "H"]  # the hydrogens lie 0.48 Å below the plane
    places = molecule("H2O").positions[:, :2] + 1.0
    np.testing.assert_allclose(np.stack([atoms.x, atoms.y], 1), places)
    far = molecule("H2O")
    far.positions[:, 2] -= 0.1
    assert list(plane_figure(maps, far).data[-1].text) == ["O"]
    with pytest.raises(ValueError, match="found is empty"):
        plane_figure([], molecule("H2O"))

    found = embedding_pca(small_schnet(), [1, 3, 11, 9, 17, 57], 3)
    shown = embeddings_figure(found).data
    places = {s: xyz for one in shown for s, *xyz in zip(one.text, one.x, one.y, one.z)}
    for z, wanted in zip(["H", "Li", "F", "Na", "Cl", "La"], found.coordinates):
        np.testing.assert_allclose(places[z], wanted)
    names = [one.name for one in shown]
    assert names == ["hydrogen", "alkali metals", "halogens", "lanthanides, actinides"]
    assert "F (9), group 17, period 2" in shown[2].hovertext
    assert {
        one.type for one in embeddings_figure(embedding_pca(small_schnet(), [1, 6, 8], 2)).data
    } == {"scatter"}

    curves = filter_curves(small_schnet(), np.linspace(0, 4, 9))
    lines = filters_figure(curves)
    layers, _, count = curves.values.shape
    assert len(lines.data) == layers * count
    np.testing.assert_allclose(lines.data[count + 2].y, curves.values[1, :, 2])
    for layer, button in enumerate(lines.layout.updatemenus[0].buttons):
        seen = np.flatnonzero(button.args[0]["visible"])
        np.testing.assert_array_equal(seen, layer * count + np.arange(count))
    assert [one.visible for one in lines.data] == [True] * count + [False] * (layers - 1) * count


@pytest.mark.parametrize(
    "words",
    [
        ["chemical-potential", "--structure", "C6H6", "--spacing", "0.5", "--probe", "H,C"],
        ["embeddings"],
        ["filters"],
    ],
    ids=lambda words: words[0],
)
def test_each_of_them_is_a_page_of_its_command(words, tmp_path):
    pytest.importorskip("plotly")
    pytest.importorskip("jsonargparse")
    what, *others = words
    page = tmp_path / "a.html"
    options = [*others, "--model", "md17-aspirin", "--out", str(page)]
    assert run(what, parsers()[what].parse_args(options), read) == [page]
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and not re.search(r"<script[^>]*\ssrc=", text)


def test_the_command_writes_surfaces_as_pages(tmp_path):
    pytest.importorskip("plotly")
    pytest.importorskip("jsonargparse")
    pytest.importorskip("skimage.measure")
    words = ["--model", "md17-benzene", "--structure", "C6H6", "--out", f"{tmp_path}/a.html"]
    surface = ["--where", "surface", "--spacing", "0.5", "--probe", "H,C"]
    options = parsers()["chemical-potential"].parse_args([*words, *surface])
    assert run("chemical-potential", options, read) == [tmp_path / "a.html"]
    cuts = ["--model", "md17-benzene", "--kind", "cuts", "--out", f"{tmp_path}/a.html"]
    with pytest.raises(ValueError, match="--kind curves"):
        run("filters", parsers()["filters"].parse_args(cuts), read)


def test_without_plotly_the_way_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ImportError, match="pip install plotly"):
        surface_figure(tetrahedra(), molecule("H2O"))
