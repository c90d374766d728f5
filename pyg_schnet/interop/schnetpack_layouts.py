"""What SchNetPack's modules and state_dicts say: 2.x, and the layout of 0.x and 1.x."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from pyg_schnet.interop.schnetpack_description import Description, Offsets, State

_ACTIVATIONS = {
    "shifted_softplus": "ssp",
    "ShiftedSoftplus": "ssp",
    "ssp": "ssp",
    "silu": "silu",
    "SiLU": "silu",
}
_AGGREGATION = {"sum": "add", "avg": "mean"}
_HEADS = ("Atomwise", "DipoleMoment")
_WITHOUT_EFFECT = ("CastTo32", "CastTo64", "Forces", "Strain", "PairwiseDistances")


def described_state(state: State, hyperparameters: Mapping[str, Any] | None) -> Description:
    """A state_dict of SchNetPack 2 with its hyperparameters.

    Args:
        state: Tensors by SchNetPack's names, perhaps after "model." as in Lightning's checkpoints.
        hyperparameters: See :func:`from_schnetpack`.

    Raises:
        ValueError: As :func:`from_schnetpack`.
    """
    if "model.representation.embedding.weight" in state:
        state = {name.removeprefix("model."): value for name, value in state.items()}
    if "representation.embedding.weight" not in state:
        raise ValueError(
            "The state_dict has no 'representation.embedding.weight' of SchNetPack's SchNet."
        )
    strange = next((n for n, value in state.items() if not isinstance(value, Tensor)), None)
    if strange is not None:
        raise ValueError(
            f"A state_dict holds tensors, but its {strange!r} is a {type(state[strange]).__name__}."
        )
    given = dict(hyperparameters or {})
    head = given.pop("head", "Atomwise")
    if head not in _HEADS:
        raise ValueError(f"hyperparameters['head'] must be one of {_HEADS}, got {head!r}.")
    own = ("aggregation_mode",) if head == "Atomwise" else ("predict_magnitude", "correct_charges")
    needed = ("activation", *own)
    missing = [name for name in needed if name not in given]
    if missing:
        raise ValueError(
            f"A state_dict does not tell {', '.join(map(repr, missing))} of its {head}; give "
            "hyperparameters, such as {'activation': 'silu', 'aggregation_mode': 'sum'}, or the "
            "model itself."
        )
    unknown = [name for name in given if name not in needed]
    if unknown:
        raise ValueError(f"hyperparameters has the unknown entry {unknown[0]!r}.")
    numbers = {name.split(".")[1] for name in state if name.startswith("output_modules.")}
    if len(numbers) != 1:
        raise ValueError(
            f"The state_dict has {len(numbers)} heads with weights; give the model itself and "
            "output."
        )
    if "representation.cutoff_fn.eps" in state:
        raise ValueError("SchNet here has no mollifier cutoff, but the state_dict is of one.")
    offsets, steps = Offsets(), [n for n in state if n.startswith("postprocessors.")]
    for number in sorted({int(name.split(".")[1]) for name in steps}):
        prefix = f"postprocessors.{number}."
        if prefix + "scale" in state:
            offsets.multiply(state[prefix + "scale"])
        offsets.add(state.get(prefix + "mean"), state.get(prefix + "atomref"))
    return Description(
        _layers(state, _NAMES_2, f"output_modules.{numbers.pop()}.outnet."),
        head=head,
        activation=_activation(given["activation"]),
        aggregation=_aggregation(given.get("aggregation_mode", "sum")),
        magnitude=bool(given.get("predict_magnitude", False)),
        neutral=bool(given.get("correct_charges", False)),
        offsets=offsets,
        **_grid_2(state),
    )


def described_module(model: Any, output: str | None = None) -> Description:
    """A model of SchNetPack, live or read from a file.

    Args:
        model: The module, or its stand-in.
        output: Name of the property, if there are several.

    Raises:
        ValueError: As :func:`from_schnetpack`.
    """
    if "representation" not in getattr(model, "_modules", {}):
        raise ValueError(
            f"The {type(model).__name__} has no representation, so it is no model of SchNetPack."
        )
    representation = model.representation
    if type(representation).__name__ != "SchNet":
        raise ValueError(
            f"The representation must be a SchNet, got {type(representation).__name__}."
        )
    heads = _children(model.output_modules)
    if heads and "out_net" in heads[0]._modules:
        return _described_1(model, _chosen(heads, output, "property"))
    return _described_2(model, _chosen(heads, output, "output_key", "dipole_key"))


def _described_2(model: Any, chosen: int) -> Description:
    representation = model.representation
    _refuse_children(model, "input_modules", "input module")
    _refuse_children(representation, "electronic_embeddings", "electronic embedding")
    if type(representation.embedding).__name__ != "Embedding":
        raise ValueError(
            f"The embedding must be a torch.nn.Embedding, got "
            f"{type(representation.embedding).__name__}."
        )
    _expect(representation.radial_basis, "GaussianRBF", "radial basis")
    _expect(representation.cutoff_fn, "CosineCutoff", "cutoff function")
    for block in _children(representation.interactions):
        for layer in (block.filter_network._modules["0"], block.f2out._modules["0"]):
            _expect_ssp(layer.activation)
    head = _children(model.output_modules)[chosen]
    kind, layers = type(head).__name__, _children(head.outnet)
    if kind == "DipoleMoment" and head.use_vector_representation:
        raise ValueError("The DipoleMoment has atomic dipoles, which need vector features.")
    if len(layers) != 2:
        raise ValueError(f"The {kind} must have 2 layers, as SchNet's has, got {len(layers)}.")
    key = head.output_key if kind == "Atomwise" else head.dipole_key
    aggregation = _aggregation(head.aggregation_mode) if kind == "Atomwise" else "add"
    offsets = Offsets()
    if getattr(model, "do_postprocessing", True):
        for step in _children(model.postprocessors):
            _postprocess(offsets, step, key, aggregation)
    if kind == "DipoleMoment" and not (offsets.is_zero() and float(offsets.scale) == 1.0):
        raise ValueError("A DipoleMoment here has no offsets or scale, but the model adds some.")
    state = model.state_dict()
    return Description(
        _layers(state, _NAMES_2, f"output_modules.{chosen}.outnet."),
        head=kind,
        activation=_activation(layers[0].activation),
        aggregation=aggregation,
        magnitude=kind == "DipoleMoment" and bool(head.predict_magnitude),
        neutral=kind == "DipoleMoment" and bool(head.correct_charges),
        offsets=offsets,
        **_grid_2(state),
    )


def _postprocess(offsets: Offsets, step: Any, key: str, aggregation: str) -> None:
    name = type(step).__name__
    if name in _WITHOUT_EFFECT:
        return
    if name == "ScaleProperty":
        if step.input_key != step.output_key:
            if key in (step.input_key, step.output_key):
                raise ValueError(
                    f"A ScaleProperty makes {step.output_key!r} of {step.input_key!r}; only one "
                    "that keeps the name can be taken along."
                )
        elif step.output_key == key:
            offsets.multiply(step.scale)
    elif name == "AddOffsets":
        if step._property != key:
            return
        added = Offsets()
        added.add(step.mean if step.add_mean else None, step.atomref if step.add_atomrefs else None)
        if step.is_extensive != (aggregation == "add") and not added.is_zero():
            raise ValueError(
                f"The offsets of {key!r} are {'' if step.is_extensive else 'not '}extensive but "
                f"its atoms are combined by {aggregation!r}; SchNet adds offsets to each atom."
            )
        offsets.add(added.mean, added.atomref)
    else:
        raise ValueError(f"SchNet here has no counterpart of the postprocessor {name}.")


def _described_1(model: Any, chosen: int) -> Description:
    representation = model.representation
    if getattr(representation, "charged_systems", False):
        raise ValueError("SchNet here has no embedding of the charge, but the model has.")
    blocks = _children(representation.interactions)
    cutoffs = {type(block.cutoff_network).__name__ for block in blocks}
    names = {"CosineCutoff": "cosine", "HardCutoff": "hard", "NoneType": "none"}
    if len(cutoffs) != 1 or not cutoffs <= set(names):
        raise ValueError(f"The cutoff function must be one of {list(names)}, got {cutoffs}.")
    for block in blocks:
        for layer in (block.filter_network._modules["0"], block.cfconv.f2out):
            _expect_ssp(layer.activation)
        if getattr(block.cfconv.agg, "average", False):
            raise ValueError("Filters normalised over all listed pairs have no counterpart here.")
    head = _children(model.output_modules)[chosen]
    kind = type(head).__name__
    layers = _children(_children(head.out_net)[1].out_net)
    if len(layers) != 2:
        raise ValueError(f"The {kind} must have 2 layers, as SchNet's has, got {len(layers)}.")
    if kind == "DipoleMoment" and getattr(head, "charge_correction", None) is not None:
        raise ValueError("The charges are corrected to those of the data, which are not known.")
    if type(head.atom_pool).__name__ != "Aggregate":
        raise ValueError(f"Atoms must be summed or averaged, not {type(head.atom_pool).__name__}.")
    offsets = Offsets()
    if kind == "Atomwise":
        offsets.multiply(head.standardize.stddev)
        offsets.add(head.standardize.mean, None if head.atomref is None else head.atomref.weight)
    state = model.state_dict()
    basis = "representation.distance_expansion."
    offset = state[basis + "offsets"]
    cutoff = state.get("representation.interactions.0.cutoff_network.cutoff", offset[-1])
    return Description(
        _layers(state, _NAMES_1, f"output_modules.{chosen}.out_net.1.out_net."),
        cutoff=float(cutoff),
        cutoff_fn=names[cutoffs.pop()],
        offset=offset,
        width=state[basis + "width"],
        head=kind,
        activation=_activation(layers[0].activation),
        aggregation="mean" if head.atom_pool.average else "add",
        magnitude=kind == "DipoleMoment" and bool(getattr(head, "predict_magnitude", False)),
        offsets=offsets,
    )


_NAMES_2 = {
    "conv.nn.0": "filter_network.0",
    "conv.nn.2": "filter_network.1",
    "conv.lin1": "in2f",
    "conv.lin2": "f2out.0",
    "lin": "f2out.1",
}
_NAMES_1 = {
    "conv.nn.0": "filter_network.0",
    "conv.nn.2": "filter_network.1",
    "conv.lin1": "cfconv.in2f",
    "conv.lin2": "cfconv.f2out",
    "lin": "dense",
}


def _layers(state: Mapping[str, Tensor], names: Mapping[str, str], head: str) -> State:
    """Layers under our names; ``head`` is the prefix of the two of the head."""
    prefix = "representation.interactions."
    numbers = {int(name[len(prefix) :].split(".")[0]) for name in state if name.startswith(prefix)}
    if not numbers:
        raise ValueError("The model has no interaction blocks.")
    layers = {"readout.lin1": f"{head}0", "readout.lin2": f"{head}1"}
    for i in sorted(numbers):
        for ours, theirs in names.items():
            layers[f"interactions.{i}.{ours}"] = f"{prefix}{i}.{theirs}"
    made = {"embedding.weight": state["representation.embedding.weight"].detach()}
    try:
        for ours, theirs in layers.items():
            made[f"{ours}.weight"] = state[f"{theirs}.weight"].detach()
            if not ours.endswith("conv.lin1"):
                made[f"{ours}.bias"] = state[f"{theirs}.bias"].detach()
    except KeyError as error:
        raise ValueError(f"The model has no layer {error}, which a SchNet needs.") from error
    if f"{head}2.weight" in state:
        raise ValueError("The head must have 2 layers, as SchNet's has, got more.")
    return made


def _grid_2(state: Mapping[str, Tensor]) -> dict[str, Any]:
    basis = "representation.radial_basis."
    for name in (f"{basis}offsets", f"{basis}widths", "representation.cutoff_fn.cutoff"):
        if name not in state:
            raise ValueError(f"The model has no {name!r}: its basis or cutoff is of another kind.")
    return {
        "cutoff": float(state["representation.cutoff_fn.cutoff"]),
        "offset": state[f"{basis}offsets"],
        "width": state[f"{basis}widths"],
    }


def _chosen(heads: list[Any], output: str | None, *keys: str) -> int:
    """The number of the head that predicts ``output``."""
    names: dict[str, int] = {}
    for number, head in enumerate(heads):
        if type(head).__name__ in _HEADS:
            name = next((getattr(head, key) for key in keys if hasattr(head, key)), "")
            names[name] = number
        elif type(head).__name__ not in _WITHOUT_EFFECT and output is None:
            raise ValueError(f"SchNet here has no head {type(head).__name__}; name an output.")
    if output is None and len(names) == 1:
        return next(iter(names.values()))
    if output not in names:
        raise ValueError(f"output must be one of {', '.join(names)}, got {output!r}.")
    return names[output]


def _children(module: Any) -> list[Any]:
    return list(module._modules.values())


def _refuse_children(module: Any, name: str, what: str) -> None:
    for child in _children(module._modules.get(name, nn.Module())):
        if type(child).__name__ not in _WITHOUT_EFFECT:
            raise ValueError(f"SchNet here has no counterpart of the {what} {type(child).__name__}")


def _expect(module: Any, name: str, what: str) -> None:
    if type(module).__name__ != name:
        raise ValueError(f"The {what} must be a {name}, got {type(module).__name__}.")


def _expect_ssp(activation: Any) -> None:
    name = _activation(activation)
    if name != "ssp":
        raise ValueError(
            f"The activation of the representation must be shifted_softplus, got {name!r}."
        )


def _activation(activation: Any) -> str:
    """The name of a function, a module or a stand-in: "ssp" or "silu"."""
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", None)
    if name is None:
        name = type(activation).__name__
        for constant in ("alpha", "beta"):
            value = getattr(activation, constant, None)
            if value is not None and not bool((value == 1).all()):
                raise ValueError(f"The {name} must have alpha = beta = 1, as the ssp has.")
    if name not in _ACTIVATIONS:
        raise ValueError(f"The activation must be shifted_softplus or silu, got {name!r}.")
    return _ACTIVATIONS[name]


def _aggregation(mode: Any) -> str:
    if mode not in _AGGREGATION:
        raise ValueError(f"aggregation_mode must be 'sum' or 'avg', got {mode!r}.")
    return _AGGREGATION[mode]


__all__ = ["described_module", "described_state"]
