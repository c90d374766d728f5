"""The examples run, and show what they say they show."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "examples"


def run(name):
    return runpy.run_path(str(FOLDER / f"{name}.py"))["main"]()


def test_every_example_is_tested_here():
    text = Path(__file__).read_text()
    assert all(f'"{path.stem}"' in text for path in FOLDER.glob("*.py"))


def test_layers_in_a_sequential_do_not_see_a_rotation():
    assert run("cfconv_in_sequential") < 1e-5


def test_a_bipartite_convolution_gives_one_row_per_target():
    assert run("cfconv_bipartite") == (7, 4)


def test_a_point_cloud_is_learned():
    first, last = run("point_cloud")
    assert last < 0.01 * first


def test_filters_of_ones_own_run():
    assert run("custom_filters") == (3, 8)


def test_forces_are_learned():
    first, last = run("forces")
    assert last < 0.1 * first


def test_a_crystal_finds_its_lattice_constant():
    constant, stress = run("crystal_stress")
    assert abs(constant - 3.59) < 0.03
    assert stress < 1e-4


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) <= 65
