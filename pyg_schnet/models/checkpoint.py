"""One file for a model: weights in safetensors, the configuration in its header."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from pyg_schnet.models.dtnn import DTNN
from pyg_schnet.models.ensemble import Ensemble
from pyg_schnet.models.potential import Potential
from pyg_schnet.models.schnet import SchNet

_KEY = "pyg_schnet"
_VERSION = 1
_MODELS: dict[str, type[SchNet] | type[DTNN]] = {"SchNet": SchNet, "DTNN": DTNN}


def save(
    model: nn.Module, path: str | os.PathLike[str], info: dict[str, Any] | None = None
) -> None:
    """Write a model to one ``.safetensors`` file, whole or not at all.

    Args:
        model: A :class:`~pyg_schnet.SchNet` or :class:`~pyg_schnet.DTNN`, or a
            :class:`~pyg_schnet.Potential` or :class:`~pyg_schnet.Ensemble` of such.
        path: The file; its folder is made if needed.
        info: What else should be known of the model (data, target, unit, errors), as JSON.

    Raises:
        ValueError: If the model is of another kind, or has an ``interaction_graph``.

    Example:
        >>> import tempfile
        >>> from pyg_schnet import SchNet, load, save
        >>> path = tempfile.mkdtemp() + "/model.safetensors"
        >>> save(SchNet(32, 32, 2, 20, 5.0), path, info={"unit": "eV"})
        >>> load(path)
        SchNet(hidden_channels=32, num_filters=32, num_interactions=2, num_gaussians=20, cutoff=5.0)
    """
    network = model.model if isinstance(model, Potential) else model
    header: dict[str, Any] = {"version": _VERSION, "info": info or {}, "potential": None}
    if isinstance(network, Ensemble):
        members = [_described(cast(Potential, member).model) for member in network.members]
        header |= {"model": "Ensemble", "members": members}
    else:
        header |= _described(network)
    if isinstance(model, Potential | Ensemble):
        header["potential"] = {"forces": model.forces, "stress": model.stress}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        # A temporary file is its owner's alone; this one gets the usual permissions.
        os.unlink(aside)
        Path(aside).touch()
        mode = Path(aside).stat().st_mode
        save_model(network, aside, metadata={_KEY: json.dumps(header)})
        os.chmod(aside, mode)
        os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


def _described(network: nn.Module) -> dict[str, Any]:
    """What makes the network again, but for its weights."""
    if not isinstance(network, SchNet | DTNN):
        raise ValueError(
            "save takes a SchNet or DTNN, or a Potential or Ensemble of such, got "
            f"{type(network).__name__}; for others use torch.save(module.state_dict(), path)."
        )
    table = getattr(network, "_table", None)
    return {
        "model": type(network).__name__,
        "config": network.config,
        "dtype": str(network.embedding.weight.dtype).removeprefix("torch."),
        "steps_of_filters": {} if table is None else table.steps(),
    }


def _made(description: dict[str, Any]) -> SchNet | DTNN:
    """The network, with weights that are to be overwritten."""
    with torch.random.fork_rng(devices=[]):
        network = _MODELS[description["model"]](**description["config"])
        return network.to(getattr(torch, description["dtype"]))


def _measured(network: SchNet | DTNN, description: dict[str, Any]) -> None:
    """Give a SchNet the grid it was saved with, unless the weights have outgrown it."""
    if isinstance(network, SchNet) and network._table is not None:
        network._table.set_steps(description.get("steps_of_filters", {}))
        network._table.measure()


def read_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The header of a checkpoint: version, model, config, dtype, potential, info.

    Args:
        path: A file that :func:`save` wrote.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a file.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file, or is cut short ({error}); checkpoints are written "
            "by pyg_schnet.save, and pickles are never loaded."
        ) from error
    if _KEY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file but not a checkpoint of pyg_schnet: its header has no "
            f"entry {_KEY!r}."
        )
    header: dict[str, Any] = json.loads(metadata[_KEY])
    kinds = [header["model"], *(member["model"] for member in header.get("members", []))]
    unknown = [kind for kind in kinds if kind not in (*_MODELS, "Ensemble")]
    if header["version"] > _VERSION or unknown:
        raise ValueError(
            f"{path} holds a {(unknown or kinds)[0]} in format {header['version']}, but this "
            f"version reads {', '.join(_MODELS)} and Ensemble up to format {_VERSION}; install a "
            "newer pyg_schnet."
        )
    return header


def load(
    path: str | os.PathLike[str],
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Read a model that :func:`save` wrote; nothing is ever unpickled.

    Args:
        path: The file.
        device: Where the model shall live.
        dtype: Of its parameters; None keeps that of the file.

    Returns:
        The SchNet, DTNN, Potential or Ensemble, in evaluation mode; its ``info`` is what was known
        of it.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint, or from a newer version.
    """
    header = read_header(path)
    members = header.get("members", [header])
    networks = [_made(member) for member in members]
    known = header["potential"]
    whole = Ensemble(networks, **known) if "members" in header else networks[0]
    try:
        load_model(whole, path)
    except RuntimeError as error:
        raise ValueError(
            f"The weights in {path} do not fit the configuration in its header: {error}"
        ) from error
    for network, member in zip(networks, members, strict=True):
        _measured(network, member)
    whole = whole.to(device=device, dtype=dtype).eval()
    model: nn.Module = whole
    if known is not None and not isinstance(whole, Ensemble):
        model = Potential(whole, **known).eval()
    # Past __setattr__, which is for parameters and modules.
    model.__dict__["info"] = header["info"]
    return model
