"""Tests of applications with several workers, in one process and without waiting: see docs/testing.md.

`Cluster` runs the workers, on a Redis in memory and in virtual time; the rest is what it gives and raises.
`hub.testing.contract` are the tests that a broker has to pass.
"""

from .cluster import Cluster
from .connection import Close, Closed, NothingReceived, Refused, Socket
from .fake_redis import FakeRedisServer
from .protocol_client import ProtocolClient, Push, ReplyError

__all__ = [
    "Close",
    "Closed",
    "Cluster",
    "FakeRedisServer",
    "NothingReceived",
    "ProtocolClient",
    "Push",
    "Refused",
    "ReplyError",
    "Socket",
]
