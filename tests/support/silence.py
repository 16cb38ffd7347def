"""Clients that vanish as a machine does whose cable is pulled."""

from __future__ import annotations

import ctypes
import socket
import struct

__all__ = ["vanish"]

# Of linux/bpf.h and asm-generic/socket.h: "return 0", which keeps nothing of a packet.
_DROP_ALL = struct.pack("HBBI", 0x06, 0, 0, 0)
_SO_ATTACH_FILTER = 26


def vanish(sock: socket.socket) -> None:
    """Nothing reaches the socket any more: no FIN, no RST, not even an acknowledgement goes back. Linux.

    The filter sees a packet before TCP does. Do not close the socket before the other side has given up.
    """
    program = ctypes.create_string_buffer(_DROP_ALL)
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", 1, ctypes.addressof(program)))
