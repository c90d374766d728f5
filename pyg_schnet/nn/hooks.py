"""Whether somebody looks at a module, so that its forward must be called."""

from collections.abc import Iterable

from torch import nn

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def have_hooks(modules: Iterable[nn.Module]) -> bool:
    """Whether any of the modules, themselves and not their children, has a hook.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> have_hooks([layer])
        False
        >>> handle = layer.register_forward_hook(lambda *arguments: None)
        >>> have_hooks([layer])
        True
    """
    return any(module.__dict__[name] for module in modules for name in _HOOKS)
