"""Reading a state_dict of ``torch_geometric.nn.SchNet``."""

from typing import Any

import torch
from torch import Tensor, nn


def translate_pyg_state(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Rename PyG's entries in ``state`` to ours, in place; leave our own state alone.

    PyG stores the filter networks twice, the output layers at the top level, and the Gaussians'
    width not at all. What it does not store (mean, std, scale) keeps the module's value. Installed
    as a pre-hook of ``load_state_dict``, so PyG's weights load without further ado.

    Args:
        module: The SchNet that loads.
        state: The entries, changed in place.
        prefix: Of the module's entries in ``state``.
        *_: The hook's other arguments, not used.
    """
    if f"{prefix}lin1.weight" not in state:
        return
    own = dict(module.named_buffers())
    for key in [k for k in state if k.startswith(prefix)]:
        name = key[len(prefix) :]
        new = _RENAMED.get(name, name)
        if name.startswith("interactions.") and ".mlp." in name:
            new = ""  # the same tensors as conv.nn
        if new == "readout.atomref" and "readout.atomref" not in own:
            new = ""  # PyG keeps one with a dipole too, and ignores it
        if new != name:
            value = state.pop(key)
            if new:
                state[prefix + new] = value
    _complete(module, state, prefix)


_RENAMED = {
    "lin1.weight": "readout.lin1.weight",
    "lin1.bias": "readout.lin1.bias",
    "lin2.weight": "readout.lin2.weight",
    "lin2.bias": "readout.lin2.bias",
    "atomref.weight": "readout.atomref",
    "atomic_mass": "readout.atomic_mass",
    "initial_atomref": "",
}


def _complete(module: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    offset = state[f"{prefix}distance_expansion.offset"]
    spacing = float(offset[1] - offset[0])
    state[f"{prefix}distance_expansion.gamma"] = torch.tensor(0.5 / spacing**2).double()
    for name, value in module.named_buffers():
        state.setdefault(prefix + name, value)
