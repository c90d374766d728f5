"""How a kernel becomes an operator: registered with torch, differentiable to any order."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pyg_schnet.ops.backends import kernel

NAMESPACE = "pyg_schnet"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")


class Operator:
    """An operator whose gradient is made of operators of the same family.

    It is registered with ``torch.library``, for torch.compile, export and fake tensors. Eager calls
    take a shorter way through ``torch.autograd.Function``, with the same gradient: half the overhead,
    which is what small molecules spend their time on.

    Args:
        schema: Of the operator; the last argument is ``str backend``.
        fake: What it returns for tensors without data.
        backward: A function of (ctx, gradients of the results) that returns the gradients of the
            leading inputs; ``ctx.inputs`` are the inputs, ``ctx.needed`` says which gradients count.
            None for an operator without gradient.
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

        _LIBRARY.define(schema)
        _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
        self.registered = getattr(getattr(torch.ops, NAMESPACE), name).default
        if backward is None:
            self.eager: Callable[..., Any] = run
            return
        count = schema.count(",") + 1

        def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
            ctx.save_for_backward(*(v for v in inputs if isinstance(v, Tensor)))
            ctx.rest = tuple(None if isinstance(v, Tensor) else v for v in inputs)

        def restore(ctx: Any) -> None:
            tensors = iter(ctx.saved_tensors)
            ctx.inputs = tuple(next(tensors) if v is None else v for v in ctx.rest)

        def registered_backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
            restore(ctx)
            ctx.needed = ctx.needs_input_grad[:differentiable]
            made = backward(ctx, *gradients)
            return (*made, *(None for _ in range(count - differentiable)))

        class Eager(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                save(ctx, inputs, None)
                ctx.set_materialize_grads(False)
                return run(*inputs)

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
                restore(ctx)
                ctx.needed = _wanted(ctx, differentiable)
                made = backward(ctx, *gradients)
                return (*made, *(None for _ in range(count - differentiable)))

        torch.library.register_autograd(
            f"{NAMESPACE}::{name}", registered_backward, setup_context=save, lib=_LIBRARY
        )
        self.eager = Eager.apply

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling() or _is_traced():
            return self.registered(*inputs)
        return self.eager(*inputs)


def _is_traced() -> bool:
    """Whether a dispatch mode (fake tensors, tracing) or a function transform is at work."""
    return (
        torch._C._len_torch_dispatch_stack() > 0 or torch._C._are_functorch_transforms_active()
    )


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
        node.name() == "torch::autograd::AccumulateGrad"
        or torch._C._will_engine_execute_node(node)
    )
