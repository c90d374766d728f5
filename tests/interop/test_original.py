"""Models of the authors' code: a slow evaluation of its arrays, and files that do not fit."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import methanol, ssp
from torch.testing import assert_close

from pyg_schnet import Potential
from pyg_schnet.interop import from_original
from pyg_schnet.simulation import Calculator
from pyg_schnet.units import KCAL_PER_MOL

# The code counts ceil(cutoff / gap) Gaussians.
T, BASIS, FILTERS, CUTOFF, GAP, GAUSSIANS = 2, 6, 5, 4.0, 0.5, 8


def arrays_of_a_model() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "mean_per_atom": (1,),
        "std_per_atom": (1,),
        "atom_embedding.embeddings.W": (100, BASIS),
        "atomref.embeddings.W": (100, 1),
        "Dense.W": (BASIS, 3),
        "Dense.b": (3,),
        "Dense_1.W": (3, 1),
        "Dense_1.b": (1,),
    }
    for i in range(T):
        shapes |= {
            f"interaction_{i}.SchNetFilter.Dense.W": (GAUSSIANS, FILTERS),
            f"interaction_{i}.SchNetFilter.Dense.b": (FILTERS,),
            f"interaction_{i}.SchNetFilter.Dense_1.W": (FILTERS, FILTERS),
            f"interaction_{i}.SchNetFilter.Dense_1.b": (FILTERS,),
            f"interaction_{i}.CFConv.in2fac.W": (BASIS, FILTERS),
            f"interaction_{i}.CFConv.fac2out.W": (FILTERS, BASIS),
            f"interaction_{i}.CFConv.fac2out.b": (BASIS,),
            f"interaction_{i}.Dense.W": (BASIS, BASIS),
            f"interaction_{i}.Dense.b": (BASIS,),
        }
    arrays = {k: rng.normal(0, 0.6, shape).astype(np.float32) for k, shape in shapes.items()}
    return arrays | {"std_per_atom": np.array([1.75], dtype=np.float32)}


def configuration() -> dict:
    return {
        "small": {
            "args_npy": {
                "interactions": T,
                "basis": BASIS,
                "filters": FILTERS,
                "cutoff": CUTOFF,
                "shared_interactions": False,
                "lr": 1e-4,
            }
        },
        "architecture_from_source": {"gap": GAP, "n_rbf": GAUSSIANS},
        "units": {"length": "angstrom", "energy": "kcal/mol", "force": "kcal/mol/angstrom"},
    }


def write(folder, arrays=None, config=None):
    np.savez(folder / "small.npz", **(arrays_of_a_model() if arrays is None else arrays))
    text = json.dumps(configuration() if config is None else config)
    (folder / "config.json").write_text(text)
    return folder / "small.npz"


def energy_by_loops(arrays, z, pos) -> float:
    """kcal/mol, atom by atom and pair by pair, as the authors' code defines it."""
    w = {name: array.astype(np.float64) for name, array in arrays.items()}
    act = np.vectorize(ssp)
    centres = np.linspace(0, CUTOFF, GAUSSIANS)
    x = w["atom_embedding.embeddings.W"][z]
    for i in range(T):
        of = f"interaction_{i}."
        features = x @ w[of + "CFConv.in2fac.W"]
        summed = np.zeros((len(z), FILTERS))
        for target in range(len(z)):
            for source in range(len(z)):
                if source == target:
                    continue
                d = math.dist(pos[source], pos[target])
                h = np.exp(-((d - centres) ** 2) / GAP)
                for layer in ("Dense", "Dense_1"):
                    name = f"{of}SchNetFilter.{layer}."
                    h = act(h @ w[name + "W"] + w[name + "b"])
                summed[target] += features[source] * h
        v = act(summed @ w[of + "CFConv.fac2out.W"] + w[of + "CFConv.fac2out.b"])
        x = x + v @ w[of + "Dense.W"] + w[of + "Dense.b"]
    out = act(x @ w["Dense.W"] + w["Dense.b"]) @ w["Dense_1.W"] + w["Dense_1.b"]
    atoms = out * w["std_per_atom"] + w["mean_per_atom"] + w["atomref.embeddings.W"][z]
    return float(atoms.sum())


@pytest.mark.parametrize("unit, factor", [("eV", KCAL_PER_MOL), ("kcal/mol", 1.0)])
def test_energies_are_those_of_the_authors_formulas(tmp_path, unit, factor):
    arrays, data = arrays_of_a_model(), methanol()
    data.pos = 1.5 * data.pos  # some pairs lie beyond the last Gaussian, and count all the same
    model = from_original(write(tmp_path, arrays), unit=unit, filters="exact").double()
    want = factor * energy_by_loops(arrays, data.z.tolist(), data.pos.tolist())
    got = Potential(model).eval()(data)["energy"]
    assert_close(got, torch.tensor([want], dtype=torch.float64), rtol=1e-12, atol=1e-12)


def test_the_model_is_ready_for_calculators_in_ev_only(tmp_path):
    path = write(tmp_path)
    model = from_original(path)
    assert not model.training and model.info["unit"] == "eV"
    assert model.embedding.weight[0].abs().max() == 0
    Calculator(model)
    with pytest.raises(ValueError, match="needs an energy in eV"):
        Calculator(from_original(path, unit="kcal/mol"))


def test_the_configuration_may_lie_elsewhere(tmp_path):
    path = write(tmp_path)
    (tmp_path / "config.json").rename(tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="no configuration at .*config.json"):
        from_original(path)
    assert from_original(path, tmp_path / "other.json").num_interactions == T


def without(name):
    return {key: array for key, array in arrays_of_a_model().items() if key != name}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ("Dense.W", "lacks 'Dense.W' of the 26 arrays"),
        ({"Dense_2.W": np.zeros(3, np.float32)}, "holds 'Dense_2.W', which the model"),
        (
            {"Dense.b": np.zeros(4, np.float32)},
            r"'Dense.b' .* must have shape \(3,\) .* got \(4,\)",
        ),
        ({"Dense.b": np.zeros(3, np.int64)}, "must be float32 or float64, got int64"),
        ({"Dense.b": np.full(3, np.nan, np.float32)}, "not finite"),
        ({"Dense.b": np.array([{}, 1], dtype=object)}, "pickles are never loaded"),
    ],
)
def test_arrays_that_do_not_fit_are_named(tmp_path, change, sentence):
    arrays = without(change) if isinstance(change, str) else arrays_of_a_model() | change
    with pytest.raises(ValueError, match=sentence):
        from_original(write(tmp_path, arrays))


def changed(place, value):
    config = configuration()
    entry = config
    for key in place[:-1]:
        entry = entry[key]
    if value is None:
        del entry[place[-1]]
    else:
        entry[place[-1]] = value
    return config


ARGUMENTS = ("small", "args_npy")
SOURCE = "architecture_from_source"


@pytest.mark.parametrize(
    "place, value, sentence",
    [
        (("other",), 1, "entry 'other' that is neither"),
        (("small",), None, "describes no model, not 'small'"),
        ((*ARGUMENTS, "depth"), 3, "unknown entry 'depth'"),
        ((*ARGUMENTS, "basis"), None, "lacks 'basis'"),
        ((*ARGUMENTS, "basis"), 6.5, "'basis' .* positive integer, got 6.5"),
        ((*ARGUMENTS, "basis"), 8, r"must have shape \(8, 4\)|must have shape \(100, 8\)"),
        ((*ARGUMENTS, "shared_interactions"), True, "must be False, got True"),
        ((*ARGUMENTS, "cutoff"), -4.0, "'cutoff' .* positive length, got -4.0"),
        ((SOURCE, "gap"), None, "lacks 'gap'"),
        ((SOURCE, "gap"), 0.25, "'n_rbf' .* must be 16, got 8"),
        ((SOURCE, "flavour"), "x", "unknown entry 'flavour'"),
        ((SOURCE, "activation"), "tanh", "'activation' .* got 'tanh'"),
        (("units", "energy"), "cal", "'energy' .* must be one of .* got 'cal'"),
        (("units", "length"), "bohr", "must be 'angstrom', got 'bohr'"),
        (("units",), None, "lacks the object 'units'"),
    ],
)
def test_configurations_that_do_not_fit_are_named(tmp_path, place, value, sentence):
    with pytest.raises(ValueError, match=sentence):
        from_original(write(tmp_path, config=changed(place, value)))


def test_other_files_and_options_are_refused(tmp_path):
    path = write(tmp_path)
    with pytest.raises(ValueError, match="unit must be one of eV"):
        from_original(path, unit="meV")
    with pytest.raises(ValueError, match="filters must be"):
        from_original(path, filters="none")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON file"):
        from_original(path)
    path.write_bytes(b"PK no archive")
    with pytest.raises(ValueError, match="cannot be read as an .npz file"):
        from_original(path)
    with pytest.raises(FileNotFoundError, match="no arrays"):
        from_original(tmp_path / "none.npz")
