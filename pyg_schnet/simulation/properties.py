"""Several properties of a structure at once, each by a model of its own."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch_geometric.data import Data

from pyg_schnet.models.pretrained import names, pretrained
from pyg_schnet.simulation.predict import predict_structures


def families() -> list[str]:
    """What the names of the models of the package begin with, such as "md17" and "qm9".

    Example:
        >>> families()
        ['md17', 'qm9']
    """
    return sorted({name.partition("-")[0] for name in names()})


def load_family(family: str, device: str | torch.device = "cpu") -> dict[str, nn.Module]:
    """The models of the package that were trained on one data set, by property.

    Args:
        family: What their names begin with, such as "qm9" for "qm9-U0", "qm9-gap" and so on.
        device: Where they shall live.

    Raises:
        ValueError: If no model's name begins with it.

    Example:
        >>> sorted(load_family("qm9"))[:4]
        ['Cv', 'G', 'H', 'U']
    """
    found = [name for name in names() if name.startswith(f"{family}-")]
    if not found:
        raise ValueError(
            f"family must be the beginning of models' names ({', '.join(families())}), "
            f"got {family!r}."
        )
    return {name.removeprefix(f"{family}-"): pretrained(name, device) for name in found}


def predict_properties(
    structures: Iterable[Data], models: Mapping[str, nn.Module]
) -> Iterator[dict[str, Any]]:
    """Predict each structure by each model.

    Args:
        structures: As :func:`predict_structures`.
        models: By property, as :func:`load_family`.

    Yields:
        "index", "formula", and the value of each property (float) under its name, in the unit of
        its model.

    Raises:
        ValueError: If a structure holds an element that a model was not trained on, or cannot be
            predicted.

    Example:
        >>> from ase.build import molecule
        >>> from pyg_schnet.simulation import atoms_to_data
        >>> models = {"energy": pretrained("md17-ethanol").model}
        >>> row = next(predict_properties([atoms_to_data(molecule("CH3CH2OH"))], models))
        >>> row["formula"], sorted(row)
        ('C2H6O', ['energy', 'formula', 'index'])
    """
    for number, structure in enumerate(structures):
        row: dict[str, Any] = {"index": number}
        for name, model in models.items():
            _check_elements(structure, name, model, number)
            one = next(iter(predict_structures([structure], model)))
            row |= {"formula": one["formula"], name: one["prediction"]}
        yield row


def _check_elements(structure: Data, name: str, model: nn.Module, number: int) -> None:
    from ase.data import chemical_symbols

    known = getattr(model, "info", {}).get("elements")
    if not known:
        return
    unknown = {chemical_symbols[z] for z in structure.z.unique().tolist()}.difference(known)
    if unknown:
        raise ValueError(
            f"Structure {number} holds {', '.join(sorted(unknown))}, but the model of {name} was "
            f"trained on {', '.join(known)} only; leave the structure out or train a model on such."
        )
