"""Which worker the running code belongs to, and objects that are another one in each.

An application has one `hub`, imported by all its modules, and here several workers share these modules. So while a
cluster lives, the class of the object `hub` is a subclass whose every attribute is that of the present worker's own
hub. What the present worker is says a context variable: tasks, callbacks and threads have that of who started them.
The same is done to the parts of a hub that its routes hold on to. Nothing of this exists outside of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .worker import Worker

__all__ = ["Switch", "current", "own"]

# None outside of all workers: in the body of a test.
current: ContextVar[Worker | None] = ContextVar("hub_testing_worker", default=None)


def own(target: object) -> dict[str, Any]:
    """The attributes of the object itself, switched or not."""
    found: dict[str, Any] = object.__getattribute__(target, "__dict__")
    return found


# What each switched object is at the moment, by its identity.
_finders: dict[int, Callable[[], Any]] = {}


class Switch:
    """From its making to `undo`, `target` is what `find` returns."""

    def __init__(self, target: object, find: Callable[[], Any]) -> None:
        self.target = target
        # What it was before.
        self.kind: type = type(target)
        _finders[id(target)] = find
        object.__setattr__(target, "__class__", _switched(self.kind))  # type: ignore[arg-type]  # a class is hashable

    def undo(self) -> None:
        object.__setattr__(self.target, "__class__", self.kind)
        del _finders[id(self.target)]


@cache
def _switched(kind: type) -> type:
    """The subclass of all objects of a class that are switched."""

    def get(self: object, name: str) -> Any:
        return getattr(_finders[id(self)](), name)

    def put(self: object, name: str, value: Any) -> None:
        setattr(_finders[id(self)](), name, value)

    def delete(self: object, name: str) -> None:
        delattr(_finders[id(self)](), name)

    # Without slots of its own, instances of both classes have the same layout, and may change between them.
    body = {"__slots__": (), "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    access = {"__getattribute__": get, "__setattr__": put, "__delattr__": delete}
    return type(kind.__name__, (kind,), {**body, **access})
