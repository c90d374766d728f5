"""Models of SchNetPack: 2.x, and the layout of 0.x and 1.x in which its QM9 models are."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pyg_schnet.interop.original import UNITS
from pyg_schnet.interop.pickled_modules import Stub, read_module
from pyg_schnet.interop.schnetpack_description import build
from pyg_schnet.interop.schnetpack_layouts import described_module, described_state
from pyg_schnet.models import SchNet


def from_schnetpack(
    model: nn.Module | Mapping[str, Tensor] | str | os.PathLike[str],
    hyperparameters: Mapping[str, Any] | None = None,
    *,
    output: str | None = None,
    energy_unit: str = "eV",
    filters: str = "auto",
) -> SchNet:
    """Our SchNet with the weights of SchNetPack's.

    Models of SchNetPack 2 (``NeuralNetworkPotential`` with a ``SchNet`` representation) and of the
    0.x and 1.x releases (``AtomisticModel``), with a head for atomwise properties or the dipole
    moment. Single-atom values, means and scales of the postprocessors (2.x) or of the head (1.x)
    are taken along. A ``Forces`` module needs none: ask :class:`~pyg_schnet.Potential` for forces,
    which are derivatives of the result, also where SchNetPack's leave its ``ScaleProperty`` out.

    A file may hold a state_dict, Lightning's checkpoint, or a whole module as
    ``torch.save(model, path)`` writes it. It is read without running any of its code: tensors and
    containers are made here, classes and functions of SchNetPack, torch.nn and some others become
    stand-ins that do nothing, and other names are refused; SchNetPack need not be installed. A
    state_dict does not tell the activation of the head (SiLU unless SchNetPack was told otherwise)
    and how atoms are summed; these are ``hyperparameters``.

    The rounding of SchNetPack's float32 grid and cutoff is kept. The row of element 0 becomes
    zero, as padding is here. Shared interaction blocks become copies. The dipole moment is one
    about the centre of mass, which without ``correct_charges`` is SchNetPack's for centred
    positions only. Models with SiLU in the head are evaluated by torch, not by the compiled
    functions.

    Args:
        model: A live model, a state_dict, or a file with one of them (``torch.save`` or
            safetensors).
        hyperparameters: For a state_dict: "activation" of the head, "silu" or "ssp", and
            "aggregation_mode", "sum" or "avg"; for a dipole "head": "DipoleMoment", "activation",
            "predict_magnitude" and "correct_charges".
        output: Name of the property, if the model has several heads.
        energy_unit: In which an atomwise model computes: "eV", "kcal/mol", "kJ/mol" or "Hartree";
            the result is brought into eV. Leave "eV" for other properties, which stay as they are.
        filters: As in :class:`~pyg_schnet.SchNet`.

    Returns:
        The model, in evaluation mode and the dtype of the given one. Lengths are Å: a model
        trained in others is not recognised.

    Raises:
        FileNotFoundError: If ``model`` is a path and there is no file.
        ValueError: If the file is no such file or names anything else, a hyperparameter is missing,
            or the model has a part that SchNet here does not have; the sentence names it.

    Example:
        >>> from_schnetpack({}, {"activation": "silu"})
        Traceback (most recent call last):
        ...
        ValueError: The state_dict has no 'representation.embedding.weight' of SchNetPack's SchNet.
    """
    if energy_unit not in UNITS:
        raise ValueError(f"energy_unit must be one of {', '.join(UNITS)}, got {energy_unit!r}.")
    if isinstance(model, str | os.PathLike):
        model = _read(Path(model))
    if isinstance(model, Mapping):
        entries: dict[str, Any] = dict(model)
        # A checkpoint of Lightning has more than that.
        known = described_state(dict(entries.get("state_dict", entries)), hyperparameters)
    elif isinstance(model, nn.Module | Stub):
        if hyperparameters is not None:
            raise ValueError("hyperparameters belong to a state_dict; a whole model tells its own.")
        known = described_module(model, output)
    else:
        raise ValueError(
            "from_schnetpack takes a model of SchNetPack, its state_dict or a file, got "
            f"{type(model).__name__}."
        )
    made = build(known, filters)
    if known.head == "Atomwise":
        made.readout.scale.fill_(UNITS[energy_unit])
        # A plain attribute, as checkpoints have it.
        made.info = {"unit": "eV"}  # type: ignore[assignment]
    return made


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"There is no model at {path}.")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read as a safetensors file: {error}.") from error
    return read_module(path)


__all__ = ["from_schnetpack"]
