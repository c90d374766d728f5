"""When a potential in eval mode can do without autograd, and the function it then calls."""

from typing import Any, Self

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from pyg_schnet.models.frozen import FrozenPotential
from pyg_schnet.models.frozen_weights import check_model
from pyg_schnet.models.schnet import SchNet
from pyg_schnet.nn.hooks import have_hooks
from pyg_schnet.ops import choose_backend, fingerprint


class Engine:
    """Keeps a :class:`~pyg_schnet.models.FrozenPotential` for as long as a model stays as it is.

    The bytes of the weights are compared at each call, because they also change behind autograd's
    back. It is used where filters may be read off a table, so it is as exact as the model itself.
    """

    def __init__(self) -> None:
        # One assignment each: a thread that comes in between finds what belongs together.
        self._held: tuple[object, FrozenPotential | None] = (None, None)
        self._parts: tuple[object, list[nn.Module]] | None = None

    def evaluate(self, model: nn.Module, data: Data, stress: bool) -> dict[str, Tensor] | None:
        """As the potential in eval mode; None where the model or the data ask for torch."""
        if type(model) is not SchNet or not self._may_serve(model, data):
            return None
        modules = self._modules(model)
        if have_hooks(modules) or any(
            getattr(block.conv, "explain", False) for block in model.interactions
        ):
            return None
        tensors = [
            t
            for m in modules
            for held in (m._parameters, m._buffers)
            for t in held.values()
            if t is not None
        ]
        key = (stress, fingerprint(tensors))
        held, frozen = self._held
        if key != held:
            try:
                frozen = FrozenPotential(check_model(model), stress=stress)
            except ValueError:  # modules of the user's own
                frozen = None
            self._held = key, frozen
        return None if frozen is None else frozen(data)

    def _may_serve(self, model: SchNet, data: Data) -> bool:
        pos = data.pos
        dtype = model.embedding.weight.dtype
        tabulated = model.filters == "tabulated" or (
            model.filters == "auto" and dtype == torch.float32
        )
        return (
            tabulated
            and not torch.compiler.is_compiling()
            and pos.device.type == "cpu"
            and pos.dtype == dtype
            and model.embedding.weight.device.type == "cpu"
            and model.interaction_graph is None
            and choose_backend(pos.device, dtype, model.backend) == "cpu"
        )

    def _modules(self, model: nn.Module) -> list[nn.Module]:
        """All modules; walked through again only where one has been replaced."""
        if self._parts is not None:
            links, modules = self._parts
            if links == [id(child) for m in modules for child in m._modules.values()] and (
                modules[0] is model
            ):
                return modules
        modules = list(model.modules())
        links = [id(child) for m in modules for child in m._modules.values()]
        self._parts = links, modules
        return modules

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)()

    def __reduce__(self) -> tuple[type[Self], tuple[()]]:
        return type(self), ()
