"""One file for a model: weights in safetensors, the configuration in its header."""

import json
import math
import os
import tempfile
import time
from contextlib import suppress
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
_DTYPES = ("float16", "bfloat16", "float32", "float64")
_STALE = 3600.0  # seconds after which a file put aside is nobody's any more
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
    _forget_stale(path)
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


def _forget_stale(path: Path) -> None:
    """Delete what killed processes have put aside and never moved to its place."""
    for aside in path.parent.iterdir():
        if aside.name.startswith(path.name) and aside.suffix == ".part":
            with suppress(OSError):
                if time.time() - aside.stat().st_mtime > _STALE:
                    aside.unlink()


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

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     save(SchNet(16, 16, 2, 20, 5.0), f"{folder}/model.safetensors")
        ...     header = read_header(f"{folder}/model.safetensors")
        >>> header["model"], header["config"]["num_interactions"]
        ('SchNet', 2)
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no checkpoint at {path}.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        # A file that cannot be opened has a number; one of no bytes cannot be mapped.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(
            f"{path} is not a safetensors file, or is cut short ({error}); checkpoints are written "
            "by pyg_schnet.save, and pickles are never loaded."
        ) from error
    if _KEY not in metadata:
        raise ValueError(
            f"{path} is a safetensors file but not a checkpoint of pyg_schnet: its header has no "
            f"entry {_KEY!r}."
        )
    try:
        header: dict[str, Any] = json.loads(metadata[_KEY])
        version = int(header["version"])
        kinds = [header["model"], *(member["model"] for member in header.get("members", []))]
        unknown = [kind for kind in kinds if kind not in (*_MODELS, "Ensemble")]
        if version <= _VERSION and not unknown:
            _check_header(header)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"The header of {path} is damaged ({type(error).__name__}: {str(error)[:200]}); save "
            "the model again."
        ) from error
    if version > _VERSION or unknown:
        raise ValueError(
            f"{path} holds a {str((unknown or kinds)[0])[:50]} in format {version}, but this "
            f"version reads {', '.join(_MODELS)} and Ensemble up to format {_VERSION}; install a "
            "newer pyg_schnet."
        )
    return header


def _check_header(header: dict[str, Any]) -> None:
    """That entries are there, and of the type they should be."""
    if not isinstance(header["info"], dict):
        raise ValueError("info must be a dictionary")
    potential = header["potential"]
    if potential is not None and {key: type(x) for key, x in potential.items()} != {
        "forces": bool,
        "stress": bool,
    }:
        raise ValueError(f"potential is {potential!r}")
    members = header["members"] if header["model"] == "Ensemble" else [header]
    for member in members:
        if member["model"] in _MODELS and not (
            isinstance(member["config"], dict)
            and isinstance(member.get("steps_of_filters", {}), dict)
            and member["dtype"] in _DTYPES
        ):
            raise ValueError(f"config, dtype or steps_of_filters of a {member['model']}")


def _refuse_larger(description: dict[str, Any], elements: int) -> None:
    """Refuse a configuration of more weights than the file has, before there is room made."""
    known = {"num_filters": 1, "num_gaussians": 1, "num_interactions": 1, **description["config"]}
    width = known.get("num_factors", known["num_filters"])
    layers = known["num_interactions"] if description["model"] == "SchNet" else 1
    sizes = [known["hidden_channels"], known.get("out_channels", 1), known["num_interactions"]]
    if known["num_interactions"]:
        sizes += [width * known["num_gaussians"], width * known["hidden_channels"] * layers]
    if max(sizes) > elements:
        raise ValueError(f"it declares {max(sizes):,} numbers or more, and the file has {elements}")


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

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> model = SchNet(16, 16, 2, 20, 5.0)
        >>> with TemporaryDirectory() as folder:
        ...     save(model, f"{folder}/model.safetensors")
        ...     again = load(f"{folder}/model.safetensors", dtype=torch.float64)
        >>> z, pos = torch.tensor([8, 1]), torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        >>> bool(torch.allclose(again(z, pos.double()), model(z, pos).double(), rtol=1e-5))
        True
    """
    header = read_header(path)
    members = header.get("members", [header])
    known = header["potential"]
    try:
        with safe_open(path, framework="pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        for member in members:
            _refuse_larger(member, sum(map(math.prod, shapes)))
        networks = [_made(member) for member in members]
        whole = Ensemble(networks, **known) if "members" in header else networks[0]
        load_model(whole, path)
        for network, member in zip(networks, members, strict=True):
            _measured(network, member)
    except Exception as error:  # models, torch and safetensors raise whatever the header leads to
        raise ValueError(
            f"The weights in {path} do not fit the configuration in its header: "
            f"{type(error).__name__}: {str(error)[:500]}"
        ) from error
    whole = whole.to(device=device, dtype=dtype).eval()
    model: nn.Module = whole
    if known is not None and not isinstance(whole, Ensemble):
        model = Potential(whole, **known).eval()
    # Past __setattr__, which is for parameters and modules.
    model.__dict__["info"] = header["info"]
    return model
