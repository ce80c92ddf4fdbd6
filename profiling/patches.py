"""Replacements of functions and methods that are put in place when a module is first imported, and taken back.

Under Isaac Sim, Isaac Lab can only be imported after the simulator has started, inside its own training script. So
nothing here imports what it patches: `ImportWatch` waits for the import, `Patches` remembers what it replaced.
Scope: this process.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType, TracebackType
from typing import Any

_ABSENT = object()

Action = Callable[[ModuleType], None]
Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]


class Patches:
    """Attributes that were replaced, in order; leaving the context puts every original back."""

    def __init__(self) -> None:
        self._replaced: list[tuple[Any, str, object, object]] = []  # owner, name, what its namespace held, replacement
        self._suspended = False

    def replace(self, owner: Any, name: str, wrap: Wrap) -> None:
        """Replace ``owner.name`` by ``wrap(original)``; AttributeError if the owner has no such attribute."""
        held = vars(owner).get(name, _ABSENT)
        replacement = wrap(getattr(owner, name))
        self._replaced.append((owner, name, held, replacement))
        if not self._suspended:
            setattr(owner, name, replacement)

    def suspend(self) -> None:
        """Put the originals back for now, last replacement first."""
        if not self._suspended:
            self._suspended = True
            for owner, name, held, _ in reversed(self._replaced):
                if held is _ABSENT:  # it was inherited
                    delattr(owner, name)
                else:
                    setattr(owner, name, held)

    def resume(self) -> None:
        """Put the replacements in place again."""
        if self._suspended:
            self._suspended = False
            for owner, name, _, replacement in self._replaced:
                setattr(owner, name, replacement)

    def restore(self) -> None:
        """Put the originals back for good."""
        self.suspend()
        self._replaced.clear()
        self._suspended = False

    def __enter__(self) -> Patches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.restore()


class ImportWatch(importlib.abc.MetaPathFinder):
    """Calls actions right after a module was imported, before the importer sees it.

    A finder at the front of sys.meta_path that lets the other finders do the work. The loader stays the original
    object, so that tools which ask it for source code (inspect, torch.compile, warp) notice nothing.
    """

    def __init__(self) -> None:
        self._actions: dict[str, list[Action]] = {}
        self._asking: set[str] = set()

    def on_import(self, module: str, action: Action) -> None:
        """Call ``action(module)`` once: now if the module is imported already, else when it is."""
        imported = sys.modules.get(module)
        if imported is not None:
            action(imported)
        else:
            self._actions.setdefault(module, []).append(action)

    def waiting(self) -> list[str]:
        """Return the names of modules whose import is still awaited."""
        return sorted(self._actions)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of an awaited module as the other finders make it; None for any other module."""
        if fullname not in self._actions or fullname in self._asking:
            return None
        self._asking.add(fullname)  # another watch may ask all finders, this one included
        try:
            for finder in sys.meta_path:
                spec = finder.find_spec(fullname, path, target) if finder is not self else None
                if spec is not None:
                    if spec.loader is not None:
                        self._follow(spec.loader, fullname)
                    return spec
            return None
        finally:
            self._asking.discard(fullname)

    def _follow(self, loader: Any, fullname: str) -> None:
        original = loader.exec_module
        followed = "exec_module" in vars(loader)  # by another watch

        def exec_module(module: ModuleType) -> None:
            if followed:
                loader.exec_module = original
            else:
                del loader.exec_module  # an attribute of this one instance: back to the method of its class
            original(module)
            for action in self._actions.pop(fullname, []):
                action(module)

        loader.exec_module = exec_module

    def __enter__(self) -> ImportWatch:
        sys.meta_path.insert(0, self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sys.meta_path.remove(self)
        self._actions.clear()
