"""A module without what surrounds a forward, for passes so small that finding and calling its parts costs as much."""

from __future__ import annotations

from functools import cache
from typing import TypeVar, cast

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def twin(module: M) -> M:
    """The same forward over the same parameters and buffers, which are plain attributes here, as parts are, and a call
    is the forward itself.

    A part that has hooks, is compiled or is called in a way of its own stays what it is. What is put into the module
    later, or hooked, is not in a twin that was made before.
    """
    kind = type(module)
    if _is_more_than_its_forward(module):
        return module
    parts = {name: None if part is None else twin(part) for name, part in module._modules.items()}
    made = cast("M", kind.__new__(_called_directly(kind)))
    made.__dict__.update(module.__dict__)
    made.__dict__.update(_modules=parts, **module._parameters, **module._buffers, **parts)
    return made


def _is_more_than_its_forward(module: nn.Module) -> bool:
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    own = type(module).__call__ is not nn.Module.__call__ or "forward" in vars(module)
    compiled = module._compiled_call_impl is not None or isinstance(module, torch.jit.ScriptModule)
    return own or compiled or any(hooks)


@cache
def _called_directly(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (kind,), {"__call__": kind.forward})
