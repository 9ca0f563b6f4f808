"""What the blocks of a tar say, believing none of them.

Knows the headers of all kinds of tar and nothing of files: it turns bytes into fields.  Fields
that nobody here needs (owner, mode, times, device numbers) are not even looked at, so whatever
stands in them does no harm.  It needs the standard library alone.

Format: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual,
"Basic Tar Format" and "Storing Sparse Files".
"""

import json
import re
from dataclasses import dataclass
from typing import NoReturn

#: Bytes of a block, of which all of a tar is made.
BLOCK = 512
#: A block of the end of an archive.
ZEROS = bytes(BLOCK)
#: Headers about the member behind them, or about all that follow.
EXTENSIONS = {b"L", b"K", b"x", b"X", b"g"}
#: Types that have no content to extract, as they are told to a person.
NOT_FILES = {
    b"2": "symbolic link",
    b"3": "character device",
    b"4": "block device",
    b"6": "named pipe",
    b"V": "volume label",
}
HARD_LINK = b"1"
FOLDERS = {b"5", b"D"}
#: The rest of a file of another volume.
CONTINUED = b"M"
#: GNU tar's older sparse file.
SPARSE = b"S"
#: What the maker of a tar says of a member: a JSON object.
METADATA = b"EARMARK.metadata"
#: Fields of extended headers that say where, how large and how full of holes a member is.
_FIELDS = {
    *(b"path", b"linkpath", b"size"),
    *(b"GNU.sparse.major", b"GNU.sparse.minor", b"GNU.sparse.name"),
    *(b"GNU.sparse.realsize", b"GNU.sparse.size", b"GNU.sparse.map"),
    METADATA,
}
#: GNU's sparse format 0.0 has a field for each number of the list that 0.1 has in one.
_PIECES = {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}

_OCTAL = re.compile(rb"[\0 ]*([0-7]*)(?:[\0 ].*)?", re.DOTALL)
# The length can't be longer than that of what a tar may hold, and int takes no time over it.
_RECORD = re.compile(rb"([0-9]{1,9}) ")
_DECIMAL = re.compile(rb"[0-9]{1,19}")


@dataclass(frozen=True)
class Header:
    """The fields of one header that are needed.

    Attributes:
        kind: The type flag, one byte.
        size: Of the content behind it, in bytes; None if it can't be read.
        name: Of the member.
        link: Of the member that this one links to.
    """

    kind: bytes
    size: int | None
    name: bytes
    link: bytes


def header(block: bytes) -> Header | None:
    """Read a block as a header.

    Args:
        block: 512 bytes.

    Returns:
        None if its checksum says that it is none.
    """
    stored = number(block[148:156])
    if stored is None or block == ZEROS:
        return None
    total = sum(block) - sum(block[148:156]) + 8 * ord(" ")
    # Old programs added signed bytes.
    if stored != total and stored != total - 256 * sum(
        byte > 127 for byte in block[:148] + block[156:]
    ):
        return None
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = _text(block[345:500]) + b"/" + name
    size = number(block[124:136])
    if size is not None and size < 0:
        size = None
    return Header(block[156:157], size, name, _text(block[157:257]))


def number(field: bytes) -> int | None:
    """The number in a field, octal or in GNU's base 256; None if there is none, 0 if it's blank."""
    if field[0] & 0x80:
        digits = bytes([field[0] & 0x7F]) + field[1:] if field[0] != 0xFF else field
        return int.from_bytes(digits, "big", signed=field[0] == 0xFF)
    match = _OCTAL.fullmatch(field)
    return int(match[1] or b"0", 8) if match else None


def decimal(text: bytes) -> int | None:
    """The number in a field of an extended header; None if it is none that a file could have."""
    return int(text) if _DECIMAL.fullmatch(text) else None


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def extension(kind: bytes, data: bytes) -> tuple[dict[bytes, bytes], str]:
    """Read the content of an extended header.

    Args:
        kind: One of :data:`EXTENSIONS`.
        data: Its content.

    Returns:
        The fields that are needed, and what is wrong with the rest, "" if nothing is.
    """
    if kind in (b"L", b"K"):
        return {b"path" if kind == b"L" else b"linkpath": _text(data)}, ""
    fields: dict[bytes, bytes] = {}
    pieces: list[bytes] = []
    problem = ""
    at = 0
    while at < len(data) and data[at]:
        match = _RECORD.match(data, at)
        end = at + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1] != ord("\n"):
            problem = "an extended header with a field of a wrong length"
            break
        key, equals, value = data[match.end() : end - 1].partition(b"=")
        if not equals:
            problem = "an extended header with a field without a value"
            break
        if key in _FIELDS:
            fields[key] = value
        elif key in _PIECES:
            pieces.append(value)
        at = end
    if pieces:
        fields[b"GNU.sparse.map"] = b",".join(pieces)
    return fields, problem


def metadata(value: bytes | None) -> str | None:
    """What a field says of a member, as a JSON object of ASCII alone; None if it is no such one."""
    try:
        said = json.loads(value or b"null", parse_constant=_refuse)
        return json.dumps(said) if isinstance(said, dict) and said else None
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def sparse_map(numbers: list[bytes]) -> list[tuple[int, int]]:
    """Where the pieces of a sparse file are that aren't holes.

    Args:
        numbers: Offsets and lengths, in turns, decimal.

    Returns:
        Pairs of both.

    Raises:
        ValueError: they are no such numbers.
    """
    read = [decimal(text) for text in numbers]
    if None in read or len(read) % 2:
        raise ValueError("no list of offsets and lengths")
    return list(zip(read[::2], read[1::2], strict=True))  # type: ignore[arg-type]


def old_sparse_map(block: bytes, start: int, count: int) -> list[tuple[int, int]]:
    """Such pairs as GNU's older format has them within a block, from a byte on.

    Raises:
        ValueError: they are no numbers.
    """
    pairs = []
    for at in range(start, start + 24 * count, 24):
        offset, length = number(block[at : at + 12]), number(block[at + 12 : at + 24])
        if offset is None or length is None or offset < 0 or length < 0:
            raise ValueError("no list of offsets and lengths")
        if length:
            pairs.append((offset, length))
    return pairs
