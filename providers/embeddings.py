"""Embeddings in the encoding that was asked for: vendors without base64 send numbers, buyers' clients ask for either."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .terms import Delta

__all__ = ["as_asked", "encoded"]


def as_asked(answer: Delta, body: Mapping[str, Any]) -> Delta:
    """The embeddings of an answer in ``body``'s ``encoding_format``: base64 is of float32, little-endian."""
    listed = encoded(answer.delta, body)
    return answer if listed is answer.delta else replace(answer, delta=listed, raw=None)


def encoded(listed: Mapping[str, Any], body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same of a list of embeddings; itself where nothing is to be done."""
    data = listed.get("data")
    if body.get("encoding_format") != "base64" or not isinstance(data, list):
        return listed
    if all(isinstance(one["embedding"], str) for one in data):
        return listed
    return {**listed, "data": [one | {"embedding": _base64(one["embedding"])} for one in data]}


def _base64(vector: list[float]) -> str:
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return b64encode(numbers.tobytes()).decode("ascii")
