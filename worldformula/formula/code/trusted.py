"""Whose code some objects run: torch's and this library's own, or somebody else's too.

Where nothing is differentiated, operations take less time in ``torch.inference_mode`` than under ``torch.no_grad``.
But what is made there can never be learnt through, and a network of somebody's own may keep a tensor of its first call
for later ones: a mask, a table, a cached constant. So that mode is for networks of torch and of this library alone,
which keep none, and its results leave it as copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.nn.modules.module import _has_any_global_hook
from torch.utils.hooks import RemovableHandle

from worldformula.formula.syntax.hidden import PLAIN, parts
from worldformula.gradients import transformed

ROOTS = frozenset({"torch", "worldformula", "builtins", "collections", "functools", "math", "types", "numpy"})


class Trusted:
    """Whether all code behind some objects is torch's or this library's, and no hook looks on.

    It is looked up once, and again where a module was exchanged or added since, or a hook, or an attribute, such as a
    ``forward`` of its own, or a function that one calls, such as its activation: a walk through an agent's networks
    takes a millisecond, a look at their children microseconds.

    Args:
        things: modules, functions, factors, families.
    """

    def __init__(self, *things: object) -> None:
        self.things = things
        self._look()

    def __call__(self) -> bool:
        """Whether it is so now."""
        if RemovableHandle.next_id != self._hooks or self._now() != self._known:
            self._look()
        return self._whole

    def _look(self) -> None:
        reached = list(_reached(self.things))
        modules = [value for value in reached if isinstance(value, nn.Module) and not isinstance(value, ScriptModule)]
        self._children, self._attributes = [m._modules for m in modules], [vars(m) for m in modules]
        attributes = ((held, name, value) for held in self._attributes for name, value in held.items())
        self._functions = [(held, name) for held, name, value in attributes if _called(name, value)]
        self._known, self._hooks = self._now(), RemovableHandle.next_id  # which counts all hooks that were ever made
        hooked = any(m._forward_hooks or m._forward_pre_hooks for m in modules) or _has_any_global_hook()  # type: ignore[no-untyped-call]
        self._whole = not hooked and all(map(_is_trusted, reached))

    def _now(self) -> list[Any]:
        functions = [held.get(name) for held, name in self._functions]
        return [*chain.from_iterable(map(dict.values, self._children)), *map(len, self._attributes), *functions]


def _called(name: str, value: object) -> bool:
    """Whether a module may call this attribute, such as its activation, now or once it is no longer None."""
    function = value is None or (callable(value) and not isinstance(value, nn.Module | type))
    return function and name != "_is_full_backward_hook"  # None in every module; hooks are counted


def _reached(things: tuple[object, ...]) -> Iterator[object]:
    """All that these are made of, each once."""
    waiting, seen = [*things], dict[int, object]()
    while waiting:
        value = waiting.pop()
        if id(value) not in seen:
            seen[id(value)] = value  # held, so that no other value gets its id
            yield value
            if isinstance(value, ScriptModule):
                continue
            if isinstance(value, nn.Module):
                waiting += vars(value).values()
            elif not isinstance(value, PLAIN):
                waiting += parts(value)


def _is_trusted(value: object) -> bool:
    """Whether its code is torch's or the library's: of a module, a function, a class, or an object of one."""
    kind = type(value).__module__
    if isinstance(value, nn.Module):  # one that is compiled would be compiled anew for that mode
        compiled = isinstance(value, ScriptModule) or value._compiled_call_impl is not None
        return kind.startswith(("torch.nn.", "worldformula.")) and not compiled
    own = getattr(value, "__module__", None) if callable(value) else None
    return all(name.partition(".")[0] in ROOTS for name in (kind, own or kind))


def free_of_gradients(trusted: Trusted) -> AbstractContextManager[object]:
    """Inference mode, where gradients are off already, all code is trusted and nobody looks into what runs.

    What is made in it has to leave it by `copied`.
    """
    if torch.is_grad_enabled() or transformed() or torch._C._is_any_autocast_enabled() or not trusted():
        return nullcontext()
    return torch.inference_mode()


def copied(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that inference mode made, as tensors that a gradient may go through."""
    return {name: value.clone() if value.is_inference() else value for name, value in values.items()}
