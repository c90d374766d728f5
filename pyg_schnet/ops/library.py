"""How a kernel becomes an operator: registered with torch, differentiable to any order."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from pyg_schnet.ops.backends import kernel

NAMESPACE = "pyg_schnet"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")


class Operator:
    """An operator whose gradient is made of operators of the same family.

    It is registered with ``torch.library``, for torch.compile, export and fake tensors. Eager calls
    take a shorter way through ``torch.autograd.Function``, with the same gradient: half the
    overhead, which is what small molecules spend their time on. The reference backend is plain
    torch, which differentiates and transforms itself.

    Args:
        schema: Of the operator; the last argument is ``str backend``.
        fake: What it returns for tensors without data.
        backward: A function of (ctx, gradients of the results) that returns the gradients of the
            leading inputs; ``ctx.inputs`` are the inputs, ``ctx.needed`` says which gradients
            count. None for an operator without gradient.
        differentiable: Number of leading inputs that have a gradient.
    """

    def __init__(
        self,
        schema: str,
        fake: Callable[..., Any],
        backward: Callable[..., tuple[Tensor | None, ...]] | None = None,
        differentiable: int = 0,
    ) -> None:
        self.name = schema.partition("(")[0]
        name = self.name

        def run(*inputs: Any) -> Any:
            return kernel(inputs[-1], name)(*inputs[:-1])

        def run_registered(*inputs: Any) -> Any:
            made = run(*inputs)
            if isinstance(made, Tensor):
                return made
            # A slot that is not open is empty, and an operator must not return one tensor twice.
            return tuple(t if t.numel() else torch.empty_like(t) for t in made)

        _LIBRARY.define(schema)
        _LIBRARY.impl(name, run_registered, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
        self.registered = getattr(getattr(torch.ops, NAMESPACE), name).default
        if backward is None:
            self.eager: Callable[..., Any] = run
            return
        gradients_of = backward
        count = schema.partition("->")[0].count(",") + 1
        nothing = (None,) * (count - differentiable)

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*inputs[:differentiable])
            ctx.rest = inputs[differentiable:]

        def registered_backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
            ctx.inputs = (*ctx.saved_tensors, *ctx.rest)
            ctx.needed = ctx.needs_input_grad[:differentiable]
            return (*gradients_of(ctx, *gradients), *nothing)

        class Eager(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                ctx.save_for_backward(*inputs[:differentiable])
                ctx.rest = inputs[differentiable:]
                ctx.set_materialize_grads(False)
                return kernel(inputs[-1], name)(*inputs[:-1])

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
                rest = ctx.rest
                for gradient in gradients:
                    # Under is_grads_batched, which the kernels cannot follow either.
                    if gradient is not None and is_legacy_batchedtensor(gradient):
                        rest = (*rest[:-1], "reference")
                ctx.inputs = (*ctx.saved_tensors, *rest)
                ctx.needed = _wanted(ctx, differentiable)
                return (*gradients_of(ctx, *gradients), *nothing)

        torch.library.register_autograd(
            f"{NAMESPACE}::{name}", registered_backward, setup_context=save, lib=_LIBRARY
        )
        # Without the wrapper of Function.apply, which looks at each argument for torch.func's sake.
        self.eager = super(torch.autograd.Function, Eager).apply

    def __call__(self, *inputs: Any) -> Any:
        """Apply it; the last input is the name of the backend."""
        if torch.compiler.is_compiling():
            return self.registered(*inputs)
        if inputs[-1] == "reference" or _is_transformed():
            return kernel("reference", self.name)(*inputs[:-1])
        if torch._C._len_torch_dispatch_stack() > 0:
            return self.registered(*inputs)
        return self.eager(*inputs)


def _is_transformed() -> bool:
    """Whether torch.func or forward-mode differentiation is at work, which kernels cannot follow.

    The reference is plain torch and can.
    """
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _wanted(ctx: Any, count: int) -> tuple[bool, ...]:
    """Which gradients the running backward pass will use.

    ``needs_input_grad`` also counts inputs that require a gradient but that nobody asked for: the
    filter tables, when only forces are wanted.
    """
    following = zip(ctx.needs_input_grad[:count], ctx.next_functions[:count], strict=True)
    return tuple(need and _will_run(node) for need, (node, _) in following)


def _will_run(node: Any) -> bool:
    # The engine does not tell of leaves while it runs torch.autograd.grad.
    return node is not None and (
        node.name() == "torch::autograd::AccumulateGrad" or torch._C._will_engine_execute_node(node)
    )
