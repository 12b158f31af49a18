"""Embeddings come in the encoding asked for."""

from __future__ import annotations

import base64
import struct
from typing import Any

import pytest
from vendor_playback import Playback, collect, seller_at, ticket_for

from providers.embeddings import as_asked
from providers.terms import Delta, Usage

VECTOR = [0.5, -0.25, 1.0]
BASE64 = base64.b64encode(struct.pack("<3f", *VECTOR)).decode()


@pytest.mark.parametrize(
    ("asked", "sent", "expected"),
    [
        ({}, VECTOR, VECTOR),
        ({"encoding_format": "float"}, VECTOR, VECTOR),
        ({"encoding_format": "base64"}, VECTOR, BASE64),
        ({"encoding_format": "base64"}, BASE64, BASE64),
    ],
)
def test_numbers_or_base64(asked: dict[str, Any], sent: object, expected: object) -> None:
    """Base64 of little-endian float32 where that was asked for and numbers came; else as it came."""
    answer = Delta(
        delta={"object": "list", "data": [{"index": 0, "embedding": sent}]}, usage=Usage(3, 0), raw=b"x"
    )
    found = as_asked(answer, asked)
    assert found.delta["data"] == [{"index": 0, "embedding": expected}]
    assert found.usage == answer.usage
    assert (found.raw is None) is (sent != expected)


async def test_a_vendor_without_base64_serves_clients_that_ask_for_it() -> None:
    """Gemini sends numbers; a client that asks for base64, as OpenAI's does, gets base64."""
    playback = Playback(
        [{"json": {"embeddings": [{"values": VECTOR}], "usageMetadata": {"promptTokenCount": 3}}}]
    )
    async with playback.at() as url:
        seller = seller_at(url, "gemini", model="gemini-embedding-x", tags=frozenset({"embeddings"}))
        body = {"input": "hi", "encoding_format": "base64"}
        ticket = ticket_for(seller, body, capabilities=frozenset({"embeddings"}))
        message, last = await collect(seller, ticket)
        assert message["data"][0]["embedding"] == BASE64
        assert last.usage == Usage(3, 0)
        await seller.aclose()
