"""What an application's channels and calls are, as an AsyncAPI document, and the page to try them."""

from .document import Place, describe
from .routes import AsyncApi

__all__ = ["AsyncApi", "Place", "describe"]
