import re
import sys

import numpy as np
import pytest
from ase.build import molecule
from ase.io import read

from pyg_schnet.analysis.chemical_potential import PotentialSurface
from pyg_schnet.analysis.commands import parsers, run
from pyg_schnet.analysis.interactive import surface_figure, write_surface
from pyg_schnet.analysis.isosurface import Surface


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


def test_the_command_writes_it_for_surfaces_alone(tmp_path):
    pytest.importorskip("plotly")
    pytest.importorskip("jsonargparse")
    pytest.importorskip("skimage.measure")
    words = ["--model", "md17-benzene", "--structure", "C6H6", "--out", f"{tmp_path}/a.html"]
    surface = ["--where", "surface", "--spacing", "0.5", "--probe", "H,C"]
    options = parsers()["chemical-potential"].parse_args([*words, *surface])
    assert run("chemical-potential", options, read) == [tmp_path / "a.html"]
    with pytest.raises(ValueError, match="--where surface"):
        run("chemical-potential", parsers()["chemical-potential"].parse_args(words), read)


def test_without_plotly_the_way_to_install_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(ImportError, match="pip install plotly"):
        surface_figure(tetrahedra(), molecule("H2O"))
