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


def test_vectors_are_learned_and_turn_with_their_input():
    error, change = run("equivariant")
    assert error < 0.08
    assert change < 1e-5


def test_attention_finds_what_a_sum_cannot():
    with_attention, without = run("attention")
    assert with_attention < 0.1
    assert without > 2 * with_attention


def test_each_relation_has_a_convolution_of_its_own():
    error, convolutions = run("heterogeneous")
    assert convolutions == 2 * 3
    assert error < 0.1


def test_an_explainer_finds_the_atoms_and_the_edge_that_make_the_property():
    found = run("explained")
    assert found["F and Li"] > 0.6 > 0.3 > found["Ar"]
    assert found["F-Li"] > 0.6 > 0.35 > found["Ar-Ar"]
    assert found["change"] < 1e-5


def test_filters_of_relative_positions_tell_directions_apart():
    right = run("point_cloud_classes")
    assert right[2, True] > 0.95 and right[3, True] > 0.95
    assert right[2, False] < 0.65 and right[3, False] < 0.5  # chance is 1/2 and 1/3


def test_features_of_a_trained_model_help_another_network():
    error = run("schnet_features")
    assert error["features"] < 0.8 * error["elements"]


def test_fine_tuning_beats_training_from_scratch():
    error = run("fine_tuning")
    assert error["fine-tuned"] < 0.5 * error["from scratch"]
    assert error["fine-tuned"] < error["not trained"]


def test_cheap_labels_make_dear_ones_go_further():
    error = run("multi_fidelity")
    assert error["shared"] < 0.75 * error["dear alone"]
    assert error["delta"] < 0.75 * error["dear alone"]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda p: p.stem)
def test_examples_are_short(path):
    assert len(path.read_text().splitlines()) < 100
