"""Models that come with the package: weights in safetensors, and a card for each."""

import difflib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pyg_schnet.models.checkpoint import load, read_header, save
from pyg_schnet.models.potential import Potential

if TYPE_CHECKING:
    from pyg_schnet.models.schnet import SchNet

FOLDER = Path(__file__).resolve().parents[1] / "pretrained"
MOST_BYTES = 1_000_000
"""Of the weights of one model."""

_DATA = {
    "qm9": "QM9: Ramakrishnan, Dral, Rupp and von Lilienfeld, Sci. Data 1, 140022 (2014).",
    "md17": "MD17: Chmiela et al., Sci. Adv. 3, e1603015 (2017).",
    "rmd17": "Revised MD17: Christensen and von Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 "
    "(2020).",
    "iso17": "ISO17: Schütt et al., NeurIPS 2017.",
}
_OWN_OPTION = {
    "molecule": "md17",
    "scenario": "iso17",
    "paths": "trajectories",
    "isolated": "mp",
    "target": "qm9",
}
# Where somebody else would look for other files.
_LOCAL = ("root", "raw", "output", "split_file")


def pretrained(
    name: str, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> nn.Module:
    """A model that comes with the package; :func:`card` says what it was trained on.

    Args:
        name: One of :func:`names`.
        device: Where the model shall live.
        dtype: Of its parameters; None keeps that of the file.

    Returns:
        A :class:`~pyg_schnet.Potential` if it was trained on forces, else a
        :class:`~pyg_schnet.SchNet`; in evaluation mode, with what its file says of data, unit and
        errors as ``info``.

    Raises:
        ValueError: If no model has this name.

    Example:
        >>> for name in names():
        ...     assert not pretrained(name).training
    """
    return load(_path(name), device, dtype)


def names() -> list[str]:
    """Names of the models that come with the package, in alphabetical order.

    Example:
        >>> "md17-ethanol" in names(), "qm9-mu" in names()
        (True, True)
    """
    return sorted(path.stem for path in FOLDER.glob("*.safetensors"))


def card(name: str) -> str:
    """What a model was trained on, how, its errors, and the command that made it, in Markdown.

    Args:
        name: One of :func:`names`.

    Raises:
        ValueError: If no model has this name.

    Example:
        >>> card("qm9-mu").splitlines()[0]
        '# qm9-mu'
    """
    return _path(name).with_suffix(".md").read_text(encoding="utf-8")


def find_model(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a model that is named in any of the ways a user may name one.

    Args:
        name_or_path: A ``.safetensors`` file; the folder of a run, whose best.safetensors is taken;
            or one of :func:`names`. A file or a run is preferred to a name.

    Returns:
        A file for :func:`~pyg_schnet.load`.

    Raises:
        FileNotFoundError: If it looks like a path and there is nothing.
        ValueError: If it looks like a name and no model has it.

    Example:
        >>> find_model("md17-ethanol").name
        'md17-ethanol.safetensors'
    """
    path, text = Path(name_or_path), os.fspath(name_or_path)
    if path.is_file():
        return path
    if (path / "best.safetensors").is_file():
        return path / "best.safetensors"
    if text in names():
        return _path(text)
    if path.is_dir():
        raise FileNotFoundError(
            f"There is no model in {path}: best.safetensors is missing, which the first "
            "validation of a run writes."
        )
    if isinstance(name_or_path, os.PathLike) or path.suffix or len(path.parts) != 1:
        raise FileNotFoundError(
            f"There is no model file or run folder at {path}; models that come with the package "
            f"are {_known()}."
        )
    return _path(text)


def write_card(
    run: str | os.PathLike[str],
    name: str,
    destination: str | os.PathLike[str],
    *,
    command: str | None = None,
    data: str | None = None,
    elements: list[str] | None = None,
    notes: str = "",
) -> tuple[Path, Path]:
    """Make a model for :func:`pretrained`, and its card, of a finished run.

    A model that was tested on forces becomes a :class:`~pyg_schnet.Potential`. The header says
    which elements the model has seen, so that calculators can refuse others. Numbers in the card
    are those of the run's metrics.json; paths in its configuration are left out.

    Args:
        run: Folder with best.safetensors, config.yaml and metrics.json.
        name: Of the model, and of the two files.
        destination: Folder of the two files, made if needed.
        command: That made the run; None names the verb and the configuration in the card.
        data: Sentences on the data: what, from where, licence. None takes the source that the
            package knows.
        elements: Symbols of those trained on; None takes what the header says, or
            :func:`trained_elements`.
        notes: More sentences, such as what the model is not for.

    Returns:
        The ``.safetensors`` file and the ``.md`` file.

    Raises:
        FileNotFoundError: If the run is not finished: a file is missing.
        ValueError: If ``name`` is no file name, or the weights need more than a megabyte.
        ImportError: If PyYAML is missing.
    """
    import yaml

    if Path(name).name != name or not name:
        raise ValueError(f"name must be a plain file name such as 'md17-ethanol', got {name!r}.")
    run, destination = Path(run), Path(destination)
    for file in ("best.safetensors", "config.yaml", "metrics.json"):
        if not (run / file).is_file():
            raise FileNotFoundError(f"{run} holds no finished run: {file} is missing.")
    config = yaml.safe_load((run / "config.yaml").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    info = read_header(run / "best.safetensors")["info"]
    model: Any = load(run / "best.safetensors")
    elements = elements or info.get("elements") or trained_elements(model)
    info |= {"name": name, "elements": elements} if elements else {"name": name}
    if "test_mae" in metrics:
        info["mae"] = metrics["test_mae"] / metrics["shown_per_unit"]
    info["test"] = {key: value for key, value in metrics.items() if key.startswith("test_")}

    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if size > MOST_BYTES:
        raise ValueError(
            f"The weights in {run} need {size:,} bytes, but a model of the package may have "
            f"{MOST_BYTES:,}; train one with fewer features or interactions."
        )
    dataset = next((of for key, of in _OWN_OPTION.items() if key in config), "")
    if "test_forces_mae" in metrics:
        model = Potential(model)
    kept = {k: v for k, v in config.items() if k not in _LOCAL and v is not None}
    if "paths" in kept:
        kept["paths"] = [Path(path).name for path in kept["paths"]]
    text = _card(
        name,
        type(model.model if isinstance(model, Potential) else model).__name__,
        info,
        metrics,
        data=_DATA.get("rmd17" if config.get("revised") else dataset, "") if data is None else data,
        command=command or f"pyg-schnet train {dataset} --config {name}.yaml".replace("  ", " "),
        config=yaml.safe_dump(kept, sort_keys=False, allow_unicode=True),
        notes=notes,
    )
    weights, page = (destination / f"{name}{suffix}" for suffix in (".safetensors", ".md"))
    save(model, weights, info)
    aside = page.with_name(page.name + ".part")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, page)
    return weights, page


def trained_elements(model: "SchNet") -> list[str] | None:
    """Symbols of the elements whose embedding is no longer the one that the seed gives.

    An optimiser without weight decay leaves embeddings alone that no structure needs.

    Args:
        model: A trained SchNet.

    Returns:
        In the order of atomic numbers; None where that cannot be said, because the model has no
        seed or all of its embeddings, or none, differ.

    Example:
        >>> trained_elements(pretrained("qm9-U0"))
        ['H', 'C', 'N', 'O', 'F']
    """
    from ase.data import chemical_symbols

    if model.config["seed"] is None:
        return None
    now = model.embedding.weight.detach()
    initial = type(model)(**model.config).embedding.weight.detach().to(now)
    seen = (now != initial).any(dim=1).nonzero().flatten().tolist()
    return [chemical_symbols[z] for z in seen] if 0 < len(seen) < len(now) - 1 else None


def _path(name: str) -> Path:
    if name not in names():
        near = difflib.get_close_matches(name, names(), 1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"name must be that of a model that comes with the package ({_known()}), "
            f"got {name!r}.{hint}"
        )
    return FOLDER / f"{name}.safetensors"


def _known() -> str:
    return ", ".join(names()) or "none in this installation"


def _card(
    name: str,
    network: str,
    info: dict[str, Any],
    metrics: dict[str, Any],
    *,
    data: str,
    command: str,
    config: str,
    notes: str,
) -> str:
    forces = "test_forces_mae" in metrics
    learned = "energies and forces" if forces else info["target"]
    subject = f" of {info['data']}" if "data" in info else ""
    use = (
        f'atoms.calc = pyg_schnet.simulation.Calculator("{name}")  # ASE'
        if forces
        else f'model = pyg_schnet.pretrained("{name}")'
    )
    parts = [
        f"# {name}",
        f"A {network} for {learned}{subject}; output in {info['unit']}"
        + (f", forces in {info['unit']}/Å." if forces else "."),
        f"```python\nimport pyg_schnet\n\n{use}\n```",
        "## Data",
        data,
        f"Elements: {', '.join(info['elements'])}." if info.get("elements") else "",
        notes,
        f"## Errors\n\nOn {metrics['n_test']:,} structures that were used neither for training "
        "nor for the choice of the weights.",
        _errors(metrics),
        "## Protocol",
        _protocol(metrics),
        f"Command, with the configuration below as `{name}.yaml`:"
        if f"{name}.yaml" in command
        else "Command:",
        f"```\n{command}\n```",
        f"```yaml\n{config}```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _errors(metrics: dict[str, Any]) -> str:
    unit, f = metrics["unit"], metrics["shown_per_unit"]
    if "test_forces_mae" in metrics:
        rows = [
            ("energy", unit, f * metrics["test_energy_mae"], f * metrics["test_energy_rmse"]),
            (
                "force components",
                metrics["forces_unit"],
                f * metrics["test_forces_mae"],
                f * metrics["test_forces_rmse"],
            ),
        ]
    else:
        rows = [(metrics["target"], unit, metrics["test_mae"], metrics["test_rmse"])]
    return _table(
        ("", "unit", "mean absolute", "root mean square"),
        ((what, unit, f"{mae:.4g}", f"{rmse:.4g}") for what, unit, mae, rmse in rows),
    )


def _protocol(metrics: dict[str, Any]) -> str:
    rows = {
        "training structures": f"{metrics['n_train']:,}",
        "validation structures": f"{metrics['n_val']:,}",
        "parameters": f"{metrics['parameters']:,}",
        "optimiser steps": f"{metrics['steps']:,} (weights of step {metrics['best_step']:,})",
        "training time": f"{metrics['seconds'] / 60:.1f} minutes",
        "CPU threads": str(metrics["threads"]),
        "stopped by": str(metrics["stopped"]),
        "seed": str(metrics["seed"]),
    }
    return _table(("", ""), rows.items())


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
