"""What goes into Redis comes out of it; what somebody else put there is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.protocol import envelope
from hub.types import DataKind, Publication

ids = st.binary(max_size=255)
publications = st.one_of(
    st.builds(lambda text, id_: Publication(text.encode(), DataKind.TEXT, id_), st.text(), ids),
    st.builds(lambda data, id_: Publication(data, DataKind.BINARY, id_), st.binary(), ids),
)


@given(publications)
def test_round_trip(publication: Publication) -> None:
    """Text, binary and the excluded connection survive byte for byte."""
    assert envelope.decode(envelope.encode(publication)) == publication


@pytest.mark.parametrize("payload", [b"", b"t", b"hello", b'{"a":1}', b"t\x05abc", b"t\x00\xff\xfe", b"\x00\x00x"])
def test_foreign_payloads_are_refused(payload: bytes) -> None:
    """Anything that is not the hub's, and text that is not UTF-8, is a ValueError and nothing else."""
    with pytest.raises(ValueError, match=r"publication|codec"):
        envelope.decode(payload)
