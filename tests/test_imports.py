"""Who imports whom, and what a plain import brings along."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import pyg_schnet

ROOT = Path(__file__).resolve().parents[1]
ABOVE_MODELS = {"graph", "models", "nn", "ops", "units"}
MAY_IMPORT = {
    "_pyg": set(),
    "units": set(),
    "ops": set(),
    "graph": {"units"},
    "datasets": {"graph", "units"},
    "nn": {"ops", "units"},
    "models": {"nn", "graph", "ops", "units"},
    "training": ABOVE_MODELS,
    "simulation": ABOVE_MODELS,
    "analysis": ABOVE_MODELS,
    "interop": ABOVE_MODELS,
    "__init__": {"models"},
}
HEAVY = [
    "ase",
    "hypothesis",
    "jsonargparse",
    "lightning",
    "matplotlib",
    "mp_api",
    "numba",
    "nvalchemiops",
    "pandas",
    "plotly",
    "pymatgen",
    "pytorch_lightning",
    "qm9pack",
    "rdkit",
    "rich",
    "scipy",
    "skimage",
    "tensorboard",
    "torch_cluster",
    "torch_scatter",
    "triton",
    "vesin",
]
FILES = sorted([*(ROOT / "pyg_schnet").rglob("*.py"), *(ROOT / "datasets").rglob("*.py")])


def package_name(path: Path) -> list[str]:
    """The dotted name of the package that ``path`` lies in, as a list."""
    parts = list(path.relative_to(ROOT).parent.parts)
    return ["pyg_schnet", *parts] if parts[0] == "datasets" else parts


def imported_rooms(path: Path) -> set[str]:
    """Rooms of pyg_schnet that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level:
                package = package_name(path)
                module = package[: len(package) - node.level + 1] + module
            names += [".".join([*module, alias.name]) for alias in node.names]
    parts = [name.split(".") for name in names]
    return {p[1] if len(p) > 1 else "" for p in parts if p[0] == "pyg_schnet"}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "datasets" else parts[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_lies_below_them(path):
    room = room_of(path)
    if room == "cli":  # the roof: it joins the rooms
        return
    forbidden = imported_rooms(path) - MAY_IMPORT[room] - {room, "_pyg"}
    assert not forbidden, f"{room} may import {sorted(MAY_IMPORT[room])}, not {sorted(forbidden)}"


def test_nobody_imports_the_command_line():
    for path in FILES:
        assert room_of(path) == "cli" or "cli" not in imported_rooms(path), path


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_importing_the_package_loads_neither_torch_nor_anything_heavy():
    assert not modules_after("import pyg_schnet").intersection([*HEAVY, "torch", "numpy"])


def test_importing_the_rooms_loads_nothing_heavy_but_what_pyg_loads():
    """PyG itself loads what it finds of Numba and pandas."""
    rooms = ["nn", "graph", "interop", "datasets", "simulation", "models.pretrained"]
    ours = modules_after("import " + ", ".join(f"pyg_schnet.{room}" for room in rooms))
    theirs = modules_after("import torch_geometric.nn.models.schnet, torch_geometric.transforms")
    assert "torch" in ours
    assert not [name for name in HEAVY if name in ours - theirs]


def test_importing_the_rooms_warns_of_nothing():
    """PyG alone would warn of torch-cluster, where that is installed, and of torch.jit."""
    rooms = [room for room in MAY_IMPORT if room not in ("ops", "__init__", "_pyg", "training")]
    names = ", ".join(f"pyg_schnet.{room}" for room in rooms)
    subprocess.run([sys.executable, "-W", "error", "-c", f"import {names}"], check=True)


def test_names_of_the_package_are_found_when_used_and_others_refused():
    assert set(pyg_schnet.__all__) <= set(dir(pyg_schnet))
    assert pyg_schnet.SchNet is pyg_schnet.models.SchNet
    # A function, also once the module that it is from has been imported.
    module = importlib.import_module("pyg_schnet.models.pretrained")
    assert pyg_schnet.pretrained is module.pretrained
    with pytest.raises(AttributeError, match="no attribute 'SchNot'"):
        pyg_schnet.SchNot  # noqa: B018
