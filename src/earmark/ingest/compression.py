"""The bytes within a compressed file, which may be several streams, one behind the other.

It needs the standard library alone, but for Zstandard.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

#: Read at once, in bytes.
_CHUNK = 64 << 10
#: What one xz stream may take in bytes; `xz -9` needs 65 MiB.
_XZ_MEMORY = 256 << 20
#: How each kind begins and what decompresses one stream of it.
_STREAMS: dict[str, tuple[bytes, Callable[[], Any]]] = {
    "gzip": (b"\x1f\x8b", lambda: zlib.decompressobj(wbits=31)),
    "bzip2": (b"BZh", bz2.BZ2Decompressor),
    "xz": (b"\xfd7zXZ\0", lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)),
}
_ZSTANDARD = b"\x28\xb5\x2f\xfd"


def compression_of(head: bytes) -> str | None:
    """How a file is compressed: ``gzip``, ``bzip2``, ``xz``, ``zstd`` or None.

    Args:
        head: Its first bytes, six or more.
    """
    if head.startswith(_ZSTANDARD):
        return "zstd"
    found = (name for name, (magic, _) in _STREAMS.items() if head.startswith(magic))
    return next(found, None)


def is_padding(data: bytes) -> bool:
    """Whether bytes that follow the end of something only fill: blanks, or one byte repeated."""
    return data.count(data[:1]) == len(data) or not data.strip(b"\0\t\n\r\x1a ")


class Decompressed:
    """What is in a compressed file, forward only.

    Streams that follow each other are one text (RFC 1952, section 2.2), with zeros between
    them or without.
    """

    def __init__(self, raw: BinaryIO, compression: str) -> None:
        """Begin at the position of an open file.

        Args:
            raw: The file.
            compression: What :func:`compression_of` says of it.
        """
        self._raw = raw
        self._compression = compression
        self._magic, self._new = _STREAMS[compression]
        self._stream = self._new()
        self._input = b""
        self._damage: zlib.error | None = None

    def read1(self, size: int) -> bytes:
        """Read at least one byte, if there is one, and at most a number of them.

        Raises:
            EOFError: the file ends in the middle of a stream.
            ValueError: something else follows the last stream.
            zlib.error, OSError, lzma.LZMAError: the data are damaged.
        """
        while size:
            if self._damage:
                raise self._damage
            if self._stream.eof and not self._begin_next():
                return b""
            # zlib hands back what it did not use; the others keep it, and say so.
            wanted = not self._input and getattr(self._stream, "needs_input", True)
            if wanted:
                self._input = self._raw.read(_CHUNK)
            at_end = wanted and not self._input
            data = self._decompress(size)
            if data:
                return data
            if at_end and not self._stream.eof:
                raise EOFError(f"the {self._compression} data end in the middle")
        return b""

    def _decompress(self, size: int) -> bytes:
        copied = getattr(self._stream, "copy", None)
        before = copied() if copied else None
        try:
            data: bytes = self._stream.decompress(self._input, size)
        except zlib.error as error:
            # With the error goes what came out before it, so that is had again, bit by bit.
            self._damage = error
            return _before_damage(before, self._input, size)
        self._input = getattr(self._stream, "unconsumed_tail", b"")
        return data

    def _begin_next(self) -> bool:
        rest = self._stream.unused_data.lstrip(b"\0")
        while len(rest) < len(self._magic) and (more := self._raw.read(_CHUNK)):
            rest = (rest + more).lstrip(b"\0")
        if rest and self._magic.startswith(rest[: len(self._magic)]):
            self._stream, self._input = self._new(), rest
            return True
        while (more := self._raw.read(_CHUNK)) and is_padding(rest):
            rest = rest[:1] + more
        if not is_padding(rest):
            raise ValueError(f"something else follows the {self._compression} data")
        return False


def _before_damage(stream: Any, data: bytes, size: int) -> bytes:
    """What comes out of a stream of zlib before its error."""
    out = b""
    with suppress(zlib.error):
        for at in range(len(data)):
            out += stream.decompress(data[at : at + 1], size - len(out))
            if len(out) >= size:
                break
    return out


def decompressed(raw: BinaryIO, compression: str) -> Any:
    """An object whose ``read1`` reads what is in a compressed file, as `Decompressed` does."""
    if compression != "zstd":
        return Decompressed(raw, compression)
    return _Zstandard(raw)


class _Zstandard:
    def __init__(self, raw: BinaryIO) -> None:
        import pyarrow as pa  # takes half a second to load, and few archives need it

        self._stream = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")

    def read1(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        return data
