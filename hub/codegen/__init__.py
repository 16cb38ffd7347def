"""Clients in other languages, written from the AsyncAPI document of an application."""

from .client import typescript
from .source import document_of

__all__ = ["document_of", "typescript"]
