"""Models that the authors' own code (TensorFlow, 2017) has trained, from plain arrays."""

import json
import math
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyg_schnet.models import SchNet
from pyg_schnet.nn.readout import MAX_ATOMIC_NUMBER
from pyg_schnet.units import HARTREE, KCAL_PER_MOL, KJ_PER_MOL

UNITS = {"eV": 1.0, "kcal/mol": KCAL_PER_MOL, "kJ/mol": KJ_PER_MOL, "Hartree": HARTREE}
"""eV; the energy units that a configuration may name."""

_SECTIONS = ("architecture_from_source", "units", "provenance")
_OF_A_MODEL = (
    "args_npy",
    "mean_per_atom_kcal_mol",
    "std_per_atom_kcal_mol",
    "n_variables",
    "n_parameters",
)
_SIZES = {"interactions": "n_interactions", "basis": "n_basis", "filters": "n_filters"}
# What the code could do otherwise, and no model here does.
_FIXED = {
    "intensive": False,
    "filter_pool_mode": "sum",
    "shared_interactions": False,
    "normalized_filters": False,
}
_OF_TRAINING = (
    "train_data",
    "val_data",
    "output_dir",
    "fit_energy",
    "fit_force",
    "atom_refs",
    "batch_size",
    "valsize",
    "eweight",
    "max_steps",
    "valint",
    "valbatch",
    "name",
    "lr",
    "energy",
    "forces",
    "keep_prob",
)
_FORMULAS = {
    "rbf": "exp(-(d-mu)^2/gap)",
    "activation": "ssp(x) = log(0.5*exp(x)+0.5)",
    "filter_net": "ssp(ssp(rbf@W+b)@W1+b1), both layers activated",
}
_REMARKS = (
    "embedding_row",
    "cutoff_note",
    "rbf_centers",
    "gap_note",
    "tf_activation_branch",
    "output",
    "dense",
)


def from_original(
    npz_path: str | os.PathLike[str],
    config_path: str | os.PathLike[str] | None = None,
    *,
    unit: str = "eV",
    filters: str = "auto",
) -> SchNet:
    r"""SchNet with the weights of a model that the authors' own code has trained.

    .. math::
        e_k(d) = \exp\left(-(d - \mu_k)^2 / \mathrm{gap}\right), \qquad
        W(d) = \mathrm{ssp}(B\,\mathrm{ssp}(A\,e(d) + a) + b)

    There is no cutoff function and all pairs of atoms interact: the cutoff of the configuration is
    only where the last Gaussian stands. The arrays bear the names of the TensorFlow variables with
    "." for "/"; a dense layer is y = x W + b with W (in, out), and the row of the embedding is the
    atomic number. Row 0 belongs to no element and becomes zero, as padding is here.

    The weights, ``mean_per_atom`` and ``std_per_atom`` stay as they are, in the unit of the
    training (kcal/mol for the published C20 models). The result is brought into ``unit`` by the
    factor ``readout.scale``, so that forces and energies in eV serve as they are.

    Code: github.com/atomistic-machine-learning/SchNet. It rounds the centres of the Gaussians to
    float32 and takes ssp(x) = x - ln 2 from x = 14 on; here both are exact (2e-4 kcal/mol in the
    energies of C20). Schütt et al., J. Chem. Phys. 148, 241722 (2018).

    Args:
        npz_path: The arrays. Pickles in it are refused.
        config_path: JSON with an entry for each model, named as the file of its arrays, that holds
            the arguments of the training (``args_npy``); with ``architecture_from_source`` and
            ``units``. None takes ``config.json`` beside the arrays.
        unit: Of the energies: "eV", "kcal/mol", "kJ/mol" or "Hartree". Calculators need eV.
        filters: As for :class:`~pyg_schnet.SchNet`.

    Returns:
        The model in float32, in evaluation mode, with its unit and source as ``info``.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If a file cannot be read; an array or an entry is missing, unknown, or does not
            fit the others; or the model is of a kind that these arrays have never been.

    Example:
        >>> from_original("energy_model.npz")
        Traceback (most recent call last):
        FileNotFoundError: There are no arrays at energy_model.npz.
    """
    if unit not in UNITS:
        raise ValueError(f"unit must be one of {', '.join(UNITS)}, got {unit!r}.")
    if filters not in ("auto", "exact", "tabulated"):
        raise ValueError(f"filters must be 'exact', 'tabulated' or 'auto', got {filters!r}.")
    npz_path = Path(npz_path)
    arrays = _read_arrays(npz_path)
    config_path = npz_path.with_name("config.json") if config_path is None else Path(config_path)
    config = _read_config(config_path)
    arguments = _arguments(config, npz_path.stem, config_path)
    sizes = {theirs: arguments[ours] for ours, theirs in _SIZES.items()}
    cutoff, gap, num_gaussians = _grid(config["architecture_from_source"], arguments, config_path)
    shapes = _shapes(**sizes, n_rbf=num_gaussians)
    _check_arrays(arrays, shapes, npz_path)
    model = SchNet(
        sizes["n_basis"],
        sizes["n_filters"],
        sizes["n_interactions"],
        num_gaussians,
        cutoff,
        mean=float(arrays["mean_per_atom"]),
        std=float(arrays["std_per_atom"]),
        atomref=arrays["atomref.embeddings.W"],
        # A table of the initial weights would be made in vain.
        filters="exact",
        filter_activation="ssp",
        cutoff_fn="none",
        gamma=1.0 / gap,
    )
    state = model.state_dict()
    state["embedding.weight"] = arrays["atom_embedding.embeddings.W"]
    state["embedding.weight"][0] = 0.0
    for ours, theirs in _layers(sizes["n_interactions"]).items():
        state[f"{ours}.weight"] = arrays[f"{theirs}.W"].T.contiguous()
        if f"{theirs}.b" in shapes:
            state[f"{ours}.bias"] = arrays[f"{theirs}.b"]
    given = _unit(config["units"], config_path)
    state["readout.scale"] = torch.tensor(UNITS[given] / UNITS[unit], dtype=torch.float64)
    model.load_state_dict(state)
    model.filters = filters
    provenance = config.get("provenance", {})
    source = {key: provenance[key] for key in ("repository", "commit") if key in provenance}
    # A plain attribute, as checkpoints have it.
    model.info = {"unit": unit, "name": npz_path.stem, **source}  # type: ignore[assignment]
    return model.eval()


def _layers(n_interactions: int) -> dict[str, str]:
    """Our name of each dense layer, and theirs."""
    layers = {"readout.lin1": "Dense", "readout.lin2": "Dense_1"}
    for i in range(n_interactions):
        layers |= {
            f"interactions.{i}.conv.nn.0": f"interaction_{i}.SchNetFilter.Dense",
            f"interactions.{i}.conv.nn.2": f"interaction_{i}.SchNetFilter.Dense_1",
            f"interactions.{i}.conv.lin1": f"interaction_{i}.CFConv.in2fac",
            f"interactions.{i}.conv.lin2": f"interaction_{i}.CFConv.fac2out",
            f"interactions.{i}.lin": f"interaction_{i}.Dense",
        }
    return layers


def _shapes(
    n_interactions: int, n_basis: int, n_filters: int, n_rbf: int
) -> dict[str, tuple[int, ...]]:
    """The arrays that a model of these sizes has."""
    widths = {"Dense": (n_basis, n_basis // 2), "Dense_1": (n_basis // 2, 1)}
    for i in range(n_interactions):
        widths |= {
            f"interaction_{i}.SchNetFilter.Dense": (n_rbf, n_filters),
            f"interaction_{i}.SchNetFilter.Dense_1": (n_filters, n_filters),
            f"interaction_{i}.CFConv.in2fac": (n_basis, n_filters),
            f"interaction_{i}.CFConv.fac2out": (n_filters, n_basis),
            f"interaction_{i}.Dense": (n_basis, n_basis),
        }
    shapes: dict[str, tuple[int, ...]] = {"mean_per_atom": (1,), "std_per_atom": (1,)}
    shapes["atom_embedding.embeddings.W"] = (MAX_ATOMIC_NUMBER + 1, n_basis)
    shapes["atomref.embeddings.W"] = (MAX_ATOMIC_NUMBER + 1, 1)
    for name, width in widths.items():
        shapes[f"{name}.W"] = width
        if not name.endswith("in2fac"):
            shapes[f"{name}.b"] = width[1:]
    return shapes


def _read_arrays(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"There are no arrays at {path}.")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no archive")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as an .npz file of plain arrays ({error}); pickles are never "
            "loaded."
        ) from error
    for name, array in arrays.items():
        if array.dtype not in (np.float32, np.float64):
            raise ValueError(
                f"Array {name!r} of {path} must be float32 or float64, got {array.dtype}."
            )
        if not np.isfinite(array).all():
            raise ValueError(f"Array {name!r} of {path} holds numbers that are not finite.")
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}


def _check_arrays(
    arrays: dict[str, Tensor], shapes: dict[str, tuple[int, ...]], path: Path
) -> None:
    missing = [name for name in shapes if name not in arrays]
    if missing:
        raise ValueError(
            f"{path} lacks {_listed(missing)} of the {len(shapes)} arrays that the sizes in the "
            "configuration ask for."
        )
    unknown = [name for name in arrays if name not in shapes]
    if unknown:
        raise ValueError(
            f"{path} holds {_listed(unknown)}, which the model that the configuration describes "
            "does not have."
        )
    for name, shape in shapes.items():
        got = tuple(arrays[name].shape)
        if got != shape:
            raise ValueError(
                f"Array {name!r} of {path} must have shape {shape} by the configuration, got {got}."
            )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no configuration at {path}; name it with config_path, since the arrays "
            "alone do not tell where the Gaussians stand."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}.") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(config).__name__}.")
    for name in ("architecture_from_source", "units"):
        if not isinstance(config.get(name), dict):
            raise ValueError(f"{path} lacks the object {name!r}.")
    for name, entry in config.items():
        if name not in _SECTIONS and not (isinstance(entry, dict) and "args_npy" in entry):
            raise ValueError(
                f"{path} has an entry {name!r} that is neither {', '.join(_SECTIONS)} nor a model "
                "with 'args_npy'."
            )
    return config


def _arguments(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The arguments of the training of the model ``name``."""
    models = [entry for entry in config if entry not in _SECTIONS]
    if name not in models:
        raise ValueError(
            f"{path} describes {_listed(models) if models else 'no model'}, not {name!r}; the file "
            "of the arrays must be named as its entry."
        )
    _check_names(config[name], _OF_A_MODEL, f"{name!r} of {path}")
    arguments: dict[str, Any] = config[name]["args_npy"]
    where = f"'args_npy' of {name!r} of {path}"
    known = (*_SIZES, "cutoff", *_FIXED, *_OF_TRAINING)
    _check_names(arguments, known, where, needed=(*_SIZES, "cutoff"))
    for entry in _SIZES:
        if not isinstance(arguments[entry], int) or arguments[entry] < 1:
            raise ValueError(
                f"{entry!r} in {where} must be a positive integer, got {arguments[entry]!r}."
            )
    _check_fixed(arguments, _FIXED, where)
    return arguments


def _grid(
    architecture: dict[str, Any], arguments: dict[str, Any], path: Path
) -> tuple[float, float, int]:
    """Where the last Gaussian stands, Å, the gap, Å (and Å² in the exponent), and their number."""
    where = f"'architecture_from_source' of {path}"
    sizes = {theirs: arguments[ours] for ours, theirs in _SIZES.items()}
    fixed = {
        "n_embeddings": MAX_ATOMIC_NUMBER + 1,
        "cutoff_angstrom": arguments["cutoff"],
        **sizes,
        **{name: _FIXED[name] for name in ("intensive", "filter_pool_mode")},
        **_FORMULAS,
    }
    _check_names(architecture, (*fixed, *_REMARKS, "gap", "n_rbf"), where, needed=("gap",))
    _check_fixed(architecture, fixed, where)
    cutoff, gap = arguments["cutoff"], architecture["gap"]
    for name, value in {"cutoff": cutoff, "gap": gap}.items():
        if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name!r} in {path} must be a positive length, got {value!r}.")
    # As the code counts: numpy.linspace(0, cutoff, ceil(cutoff / gap)).
    number = math.ceil(cutoff / gap)
    _check_fixed(architecture, {"n_rbf": number}, where)
    return float(cutoff), float(gap), number


def _unit(units: dict[str, Any], path: Path) -> str:
    where = f"'units' of {path}"
    _check_names(units, ("length", "energy", "force"), where, needed=("energy",))
    energy = units["energy"]
    if energy not in UNITS:
        raise ValueError(f"'energy' in {where} must be one of {_listed(UNITS)}, got {energy!r}.")
    _check_fixed(units, {"length": "angstrom", "force": f"{energy}/angstrom"}, where)
    return str(energy)


def _check_names(
    entries: object, known: tuple[str, ...], where: str, needed: tuple[str, ...] = ()
) -> None:
    if not isinstance(entries, dict):
        raise ValueError(f"{where} must be an object, got {type(entries).__name__}.")
    unknown = [name for name in entries if name not in known]
    if unknown:
        raise ValueError(
            f"{where} has the unknown entry {unknown[0]!r}; known are {_listed(known)}."
        )
    missing = [name for name in needed if name not in entries]
    if missing:
        raise ValueError(f"{where} lacks {_listed(missing)}.")


def _check_fixed(entries: dict[str, Any], fixed: dict[str, Any], where: str) -> None:
    for name, value in fixed.items():
        if name in entries and entries[name] != value:
            raise ValueError(f"{name!r} in {where} must be {value!r}, got {entries[name]!r}.")


def _listed(names: Any) -> str:
    names = [repr(name) for name in names]
    shown = ", ".join(names[:12])
    return shown if len(names) <= 12 else f"{shown} and {len(names) - 12} more"


__all__ = ["UNITS", "from_original"]
