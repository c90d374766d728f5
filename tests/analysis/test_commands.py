import pytest
from ase.build import bulk, molecule
from ase.io import read, write

from pyg_schnet.analysis.commands import COMMANDS, parsers, run

pytest.importorskip("jsonargparse")

BENZENE = ["--model", "md17-benzene", "--structure", "C6H6"]
RUNS = {
    "plane": ("chemical-potential", [*BENZENE, "--probe", "H,C", "--spacing", "1"], "a.png"),
    "through": ("chemical-potential", [*BENZENE, "--through", "0,1,2", "--spacing", "1"], "a.pdf"),
    "normal": (
        "chemical-potential",
        [*BENZENE, "--normal", "0,1,0", "--center", "0,0,0", "--size", "4", "--spacing", "1"],
        "a.vtk",
    ),
    "box": ("chemical-potential", [*BENZENE, "--where", "box", "--spacing", "1.5"], "a.cube"),
    "curves": ("filters", ["--model", "md17-benzene"], "a.png"),
    "cuts": (
        "filters",
        ["--model", "md17-benzene", "--kind", "cuts", "--spacing", "1", "--filters", "1,5"],
        "a.png",
    ),
    "embeddings": ("embeddings", ["--model", "md17-aspirin"], "a.png"),
    "elements": ("embeddings", ["--model", "md17-aspirin", "--elements", "H,C,O,6"], "a.png"),
    "sensitivity": ("sensitivity", [*BENZENE, "--pairs", "C-C,C-H"], "a.png"),
    "alchemy": (
        "alchemy",
        ["--model", "md17-uracil", "--structure", "C6H6", "--names", "a,b,c", "--steps", "3"],
        "a.png",
    ),
    "end": (
        "alchemy",
        ["--model", "md17-uracil", "--structure", "C6H6", "--sites", "0", "--end", "C5H5N"],
        "a.png",
    ),
    "dimer": ("dimer", ["--model", "md17-benzene,md17-toluene", "--elements", "C-C"], "a.png"),
    "h2": ("h2", ["--steps", "3"], "a.png"),
}


def call(what, words):
    return run(what, parsers()[what].parse_args(words), lambda name, index: [read(name, index)])


@pytest.mark.parametrize("case", RUNS)
def test_each_analysis_is_a_command(case, tmp_path):
    what, words, name = RUNS[case]
    written = call(what, [*words, "--out", str(tmp_path / name)])
    assert written == [tmp_path / name] and written[0].stat().st_size > 500
    assert set(tmp_path.iterdir()) == set(written)


def test_crystals_come_from_files_and_each_probe_has_one_of_its_own(tmp_path):
    file = str(tmp_path / "diamond.xyz")
    write(file, bulk("C", "diamond", 3.57), format="extxyz")
    words = ["--model", "md17-benzene", "--structure", file]
    written = call(
        "chemical-potential",
        [*words, "--where", "cell", "--spacing", "1", "--probe", "H,C"]
        + ["--out", str(tmp_path / "a.vtk")],
    )
    assert [path.name for path in written] == ["a-H.vtk", "a-C.vtk"]
    assert "omega_C" in written[1].read_text()
    lattice = ["--kind", "periodic", "--spacing", "1", "--layers", "0"]
    call("filters", [*words, *lattice, "--out", str(tmp_path / "b.png")])
    assert (tmp_path / "b.png").is_file()


def test_a_surface_is_drawn_or_written(tmp_path):
    pytest.importorskip("skimage.measure")
    for name in ("a.png", "a.vtk"):
        words = [*BENZENE, "--where", "surface", "--spacing", "0.5", "--out", str(tmp_path / name)]
        assert call("chemical-potential", words) == [tmp_path / name]


@pytest.mark.parametrize(
    "what, words, message",
    [
        ("chemical-potential", [*BENZENE, "--where", "line"], "--where must be"),
        ("chemical-potential", [*BENZENE, "--where", "box"], ".cube or .vtk"),
        ("chemical-potential", [*BENZENE, "--normal", "0,1"], "3 numbers"),
        ("chemical-potential", [*BENZENE, "--center", "0,0,0"], "--normal"),
        ("chemical-potential", [*BENZENE, "--through", "0,1,40"], "three atoms"),
        ("chemical-potential", [*BENZENE, "--through", "a"], "integers"),
        ("chemical-potential", BENZENE[:2], "--structure"),
        ("filters", ["--model", "md17-benzene", "--kind", "all"], "--kind must be"),
        ("sensitivity", BENZENE[:2], "--structure"),
        ("sensitivity", [*BENZENE, "--pairs", "CC"], "C-H"),
        ("alchemy", [*BENZENE, "--names", "one"], "3 names"),
        ("alchemy", [*BENZENE, "--end", "C5H5N"], "one pathway"),
        ("dimer", ["--model", "md17-benzene", "--elements", "C"], "C-H"),
    ],
)
def test_options_that_do_not_fit_are_named(what, words, message):
    with pytest.raises(ValueError, match=message):
        call(what, words)


def test_one_structure_is_wanted(tmp_path):
    file = str(tmp_path / "two.xyz")
    write(file, [molecule("C6H6")] * 2)
    options = parsers()["chemical-potential"].parse_args(
        ["--model", "md17-benzene", "--structure", file, "--index", ":"]
    )
    with pytest.raises(ValueError, match="holds 2 structures"):
        run("chemical-potential", options, read)
    assert list(COMMANDS)[0] == "chemical-potential"
