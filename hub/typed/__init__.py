"""Channels with a model: declared once, typed in Python, checked for clients."""

from .channel import ChannelHandle, TypedChannel, TypedHistory, TypedPublication
from .dependencies import Event
from .join import Joined
from .options import ChannelKeywords, History
from .rpc import RpcMethod

__all__ = [
    "ChannelHandle",
    "ChannelKeywords",
    "Event",
    "History",
    "Joined",
    "RpcMethod",
    "TypedChannel",
    "TypedHistory",
    "TypedPublication",
]
