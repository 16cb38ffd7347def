"""A model of pydantic, or any type that it can validate, as the data of publications and calls."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from ..errors import ConfigError, Error, Errors, Refused

__all__ = ["Model"]

M = TypeVar("M")

# Faults that a refusal names.
SHOWN = 3


class Model(Generic[M]):
    """JSON from the outside as `M`, and back."""

    def __init__(self, model: Any, where: str) -> None:
        """Raises ConfigError for a type that has no schema."""
        self.type: Any = model
        try:
            self._adapter: TypeAdapter[M] = TypeAdapter(model)
        except PydanticUserError as error:
            raise ConfigError(f"{where}: pydantic cannot validate {model!r}: {error.message}") from None

    def read(self, data: bytes) -> M:
        """Raises pydantic's ValidationError."""
        return self._adapter.validate_json(data)

    def complaint(self, data: bytes) -> str:
        """What is wrong with JSON, with the name of each field; empty if nothing is."""
        try:
            self._adapter.validate_json(data)
        except ValidationError as error:
            return complaint(error)
        return ""

    def require(self, data: bytes) -> M:
        """`read` for what a client sent. Raises Refused (107)."""
        try:
            return self._adapter.validate_json(data)
        except ValidationError as error:
            raise Refused(Error(code=Errors.BAD_REQUEST.code, message=complaint(error))) from None

    def write(self, value: M) -> bytes:
        """As JSON. Raises ValueError for what is none of these."""
        try:
            checked = self._adapter.validate_python(value)
        except ValidationError as error:
            raise ValueError(complaint(error)) from None
        return self._adapter.dump_json(checked, by_alias=True)


def complaint(error: ValidationError) -> str:
    """`data: text: Field required`; nothing of what was sent, for logs and others may see it."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"]))) for fault in faults[:SHOWN]]
    more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return "data: " + "; ".join(shown + more)
