"""HTTP/1.1 answers out of bytes (RFC 9112): the head, and a body by length, in chunks or to the connection's end.

Strict where leniency has been an attack: two lengths, a length beside chunks, blanks before a colon, a body encoding
that was not asked for. Heads and chunk lines are bounded.
"""

from __future__ import annotations

from typing import Final

from .errors import MalformedAnswer, StreamCut
from .records import record

__all__ = ["MAX_HEAD_BYTES", "AnswerHead", "BodyReader", "read_head"]

MAX_HEAD_BYTES: Final = 32 * 2**10
MAX_LINE_BYTES: Final = 4 * 2**10
MAX_LENGTH: Final = 2**40
BODILESS: Final = frozenset({204, 304})


@record(frozen=True, slots=True)
class AnswerHead:
    """Status and headers (lower case; repeated ones joined) and how the body ends.

    length: the body's, None = not by length. chunked: in chunks. keep: whether the connection may be used again.
    """

    status: int
    headers: dict[str, str]
    length: int | None
    chunked: bool
    keep: bool


def read_head(data: bytes) -> tuple[AnswerHead | None, bytes]:
    """The head at the start of ``data``, interim ones (1xx) passed over, and the bytes after it; None = not all here."""
    while True:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise MalformedAnswer(f"expected a head of at most {MAX_HEAD_BYTES} bytes, found more")
            return None, data
        if end > MAX_HEAD_BYTES:
            raise MalformedAnswer(f"expected a head of at most {MAX_HEAD_BYTES} bytes, found {end}")
        head = _head_of(data[:end])
        data = data[end + 4 :]
        if head.status >= 200:
            return head, data


def _head_of(text: bytes) -> AnswerHead:
    lines = text.decode("latin-1").split("\r\n")
    status_line = lines[0]
    if status_line[:7] != "HTTP/1." or status_line[8:9] != " " or not status_line[9:12].isdigit():
        raise MalformedAnswer(f"expected an HTTP/1.1 status line, found {status_line[:60]!r}")
    status = int(status_line[9:12])
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip() or "\n" in line or "\r" in line:
            raise MalformedAnswer(f"expected a header line, found {line[:60]!r}")
        name, value = name.lower(), value.strip(" \t")
        known = headers.get(name)
        headers[name] = value if known is None else f"{known}, {value}"
    return _framed(status, headers, modern=status_line[7] != "0")


def _framed(status: int, headers: dict[str, str], *, modern: bool) -> AnswerHead:
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise MalformedAnswer(
            f"expected the body as it is, found it encoded as {headers['content-encoding'][:30]!r}"
        )
    connection = headers.get("connection", "").lower()
    keep = modern and "close" not in connection
    coding, length_text = headers.get("transfer-encoding"), headers.get("content-length")
    if status in BODILESS or status < 200:
        return AnswerHead(status, headers, 0, False, keep)
    if coding is not None:
        if coding.lower() != "chunked" or length_text is not None:
            raise MalformedAnswer("expected chunks or a length, found both or another transfer coding")
        return AnswerHead(status, headers, None, True, keep)
    if length_text is None:
        return AnswerHead(status, headers, None, False, False)
    if not length_text.isascii() or not length_text.isdigit() or int(length_text) > MAX_LENGTH:
        raise MalformedAnswer(f"expected one content-length, found {length_text[:60]!r}")
    return AnswerHead(status, headers, int(length_text), False, keep)


class BodyReader:
    """Cuts one body out of a connection's bytes."""

    __slots__ = ("_chunked", "_left", "_state", "done", "reusable")

    def __init__(self, head: AnswerHead) -> None:
        self._chunked = head.chunked
        self._left = -1 if head.length is None else head.length
        self._state = "size"
        self.done = head.length == 0
        self.reusable = head.keep

    def feed(self, data: bytes) -> tuple[list[bytes], bytes]:
        """The body's bytes in ``data``, and what is left over: a line not all here, or what follows the body."""
        if self.done:
            return [], data
        if self._chunked:
            return self._chunks(data)
        if self._left < 0:  # to the connection's end
            return ([data] if data else []), b""
        taken, rest = data[: self._left], data[self._left :]
        self._left -= len(taken)
        self.done = self._left == 0
        return ([taken] if taken else []), rest

    def connection_ended(self, *, clean: bool) -> None:
        """The connection is gone: the end of a body that ends with it."""
        if clean and not self._chunked and self._left < 0:
            self.done = True

    def _chunks(self, data: bytes) -> tuple[list[bytes], bytes]:
        pieces: list[bytes] = []
        at = 0
        while True:
            if self._state == "data":
                piece = data[at : at + self._left]
                at += len(piece)
                self._left -= len(piece)
                if piece:
                    pieces.append(piece)
                if self._left:
                    return pieces, b""
                self._state = "after"
            end = data.find(b"\r\n", at)
            if end < 0:
                if len(data) - at > MAX_LINE_BYTES:
                    raise MalformedAnswer("expected the line of a chunk, found too long a one")
                return pieces, data[at:]
            line, at = data[at:end], end + 2
            if self._state == "after":
                if line:
                    raise StreamCut("expected the end of a chunk, found more of it")
                self._state = "size"
            elif self._state == "trailer":
                if not line:
                    self.done = True
                    return pieces, data[at:]
            else:
                self._left = _size_of(line)
                self._state = "data" if self._left else "trailer"


def _size_of(line: bytes) -> int:
    digits = line.partition(b";")[0].strip(b" \t")
    if not digits or len(digits) > 10 or digits.strip(b"0123456789abcdefABCDEF"):
        raise MalformedAnswer(f"expected the size of a chunk in hexadecimal, found {line[:30]!r}")
    return int(digits, 16)
