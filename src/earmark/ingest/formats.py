"""What a file is by its bytes: the container of its sound, and where in the file that begins.

Knows signatures and frame headers.  Files come cut from streams, behind a stray newline, an
HTTP header or the tags of other formats, so the first mebibyte is searched; what has no
signature of its own must show several frames that fit together, which noise doesn't.
Only containers whose demuxer in FFmpeg can open nothing else are taken.
"""

import re
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, NamedTuple

#: What the error of a skipped row begins with if the member is audio all the same.
NOT_TAKEN = "audio of a format that is not taken"

#: FFmpeg's name of the demuxer for each format that `identify` knows.
DEMUXERS = {
    "mp3": "mp3",
    "aac": "aac",
    "ac3": "ac3",
    "eac3": "eac3",
    "m4a": "mp4",
    "wav": "wav",
    "w64": "w64",
    "aiff": "aiff",
    "au": "au",
    "caf": "caf",
    "flac": "flac",
    "wavpack": "wv",
    "tta": "tta",
    "ogg": "ogg",
    "webm": "webm",
    "matroska": "matroska",
    "asf": "asf",
    "amr": "amr",
    "dts": "dts",
    "sbc": "sbc",
    "gsm": "gsm",
    "voc": "voc",
    "sox": "sox",
    "ircam": "ircam",
    "flv": "flv",
    "mpegts": "mpegts",
    "mpeg": "mpeg",
}

_HEAD = 1 << 20  # as much as FFmpeg probes
_MOST_JUNK = 4096  # before a signature that is short or says nothing of what follows


class Found(NamedTuple):
    """A container of sound.

    Attributes:
        format: A key of `DEMUXERS`.
        offset: Where it begins in the file, in bytes.
        junk: How many of the bytes before it are neither tags nor padding.
    """

    format: str
    offset: int
    junk: int


# --- containers with a signature --------------------------------------------------------

_SIGNATURES = [
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("wav", rb"(?:RIFF|RIFX|RF64|BW64).{4}WAVE"),
        ("w64", rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"),
        ("aiff", rb"FORM.{4}AIF[FC]"),
        ("m4a", rb"\x00.{3}ftyp"),
        ("webm", rb"\x1a\x45\xdf\xa3.{0,100}?webm"),
        ("matroska", rb"\x1a\x45\xdf\xa3.{0,100}?matroska"),
        ("asf", rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"),
        ("amr", rb"#!AMR(?:-WB)?\n"),
        ("caf", rb"caff\x00\x01.{2}desc"),
        ("au", rb"\.snd\x00[\x00-\x0f].{6}\x00\x00\x00[\x01-\x1b]"),
        ("flv", rb"FLV\x01[\x00-\x0f]\x00\x00\x00\x09"),
        ("wavpack", rb"wvpk.{4}[\x02-\x10]\x04"),
        ("dts", rb"\x7f\xfe\x80\x01[\xfc-\xff]"),
        ("tta", rb"TTA1[\x01-\x03]\x00[\x01-\x10]\x00"),
        ("mpeg", rb"\x00\x00\x01\xba[\x20-\x2f\x40-\x7f].{7,9}\x00\x00\x01[\xbb-\xef]"),
        ("voc", rb"Creative Voice File\x1a"),
        ("sox", rb"\.SoX..\x00\x00|XoS\.\x00\x00"),
        # A rate from 1 kHz on as a float, and up to 16 channels.
        ("ircam", rb"\x64\xa3[\x00-\x0f]\x00.{3}[\x44-\x48][\x01-\x10]\x00\x00\x00"),
        ("ircam", rb"\x00[\x00-\x0f]\xa3\x64[\x44-\x48].{3}\x00\x00\x00[\x01-\x10]"),
        # Frames begin with four bits alone (ETSI EN 300 961): text in Cyrillic has fewer in a row.
        ("gsm", rb"(?=.{0,32}[^\xd0-\xdf])(?:[\xd0-\xdf].{32}){30}"),
        ("mpegts", rb"(?:\x47[\x00-\x5f].[\x10-\x3f].{184}){4}\x47"),
    )
]
_OLD_QUICKTIME = re.compile(rb"[\x00-\x08].{3}(?:moov|mdat|wide|free|skip|pnot)", re.DOTALL)
#: What begins so is that, if nothing else is found further on.
_HINTS = [("ogg", b"OggS"), ("flac", b"fLaC")]

#: Containers that aren't taken, by the names that people have for them.  The demuxer of AVI opens
#: further ones within, and frames of MP3 stand in it as they do alone.
_OTHERS = [
    (name, re.compile(pattern, re.DOTALL))
    for name, pattern in (
        ("AVI", rb"RIFF.{4}AVI "),
        ("NUT", rb"nut/multimedia container\0"),
        ("MXF", rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02"),
        ("Dolby TrueHD", rb".{4}\xf8\x72\x6f[\xba\xbb]"),
        ("S/PDIF (IEC 61937)", rb"\x72\xf8\x1f\x4e|\xf8\x72\x4e\x1f"),
        ("GXF", rb"\x00{4}\x01\xbc.{8}\xe1\xe2"),
        (
            "Windows TV recording",
            rb"\xb7\xd8\x00\x20\x37\x49\xda\x11\xa6\x4e\x00\x07",
        ),
        ("ASF as it is streamed", rb"\$H.{10}\x30\x26\xb2\x75\x8e\x66\xcf\x11"),
        ("SMAF (Yamaha MMF)", rb"MMMD.{4}CNTI"),
        ("Loki SMJPEG", rb"\x00\x0aSMJPEG\x00"),
        ("AST of Nintendo", rb"STRM.{4}\x00[\x00\x01]\x00\x10"),
        ("KVAG of a game", rb"KVAG.{9}[\x00\x01]"),
        ("ALP of a game", rb"ALP .{4}ADPCM\x00"),
        ("APM of a game", rb"\x00\x20.{18}vs12"),
        ("ASF of Argonaut Games", rb"ASF\x00[\x01\x02]\x00[\x00-\x02]\x00"),
        ("audio of Westwood Studios", rb".{16}\xaf\xde\x00\x00"),
    )
]

#: What holds other files: a clip of all the frames in it would be several ones at once.
_HOLDERS = re.compile(
    rb"PK\x03\x04|PK\x05\x06|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|%PDF-|\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
    rb"|\x1f\x8b\x08|BZh[1-9]1AY|\xfd7zXZ\x00|\x28\xb5\x2f\xfd|.{257}ustar",
    re.DOTALL,
)

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_pages(head: bytes) -> Iterator[int]:
    """Where pages of Ogg with a right checksum begin (RFC 3533, section 6)."""
    for found in re.finditer(rb"OggS\x00[\x00-\x07]", head):
        at = found.start()
        table = head[at + 27 : at + 27 + (head[at + 26] if at + 26 < len(head) else 0)]
        page = bytearray(head[at : at + 27 + len(table) + sum(table)])
        said, page[22:26] = page[22:26], bytes(4)
        # zlib's polynomial is the same, but it begins at the other end of each byte.
        crc = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
        if int(f"{crc:032b}"[::-1], 2).to_bytes(4, "little") == said:
            yield at


def _flac_starts(head: bytes) -> Iterator[int]:
    """Where FLAC begins with a STREAMINFO that can be (RFC 9639, section 8.2)."""
    for found in re.finditer(rb"fLaC[\x00\x80]\x00\x00\x22", head):
        info = head[found.end() : found.end() + 18]
        if len(info) == 18 and info[0] << 8 | info[1] >= 16 and any(info[10:13]):
            yield found.start()


def _flac_frames(head: bytes) -> Iterator[int]:
    """Where two FLAC frames that count on begin (RFC 9639, section 9.1)."""
    former: tuple[bytes, int] | None = None
    start = 0
    for found in re.finditer(rb"(?=\xff[\xf8\xf9][\x10-\xff][\x00-\xaf])", head):
        at = found.start()
        if head[at + 2] & 15 == 15 or head[at + 3] & 1:
            continue
        lead = head[at + 4] if at + 4 < len(head) else 0x80
        length = 8 - (lead ^ 0xFF).bit_length() or 1  # of the number, coded as in UTF-8
        size_code, rate_code = head[at + 2] >> 4, head[at + 2] & 15
        end = at + 4 + length
        end += {6: 1, 7: 2}.get(size_code, 0) + {12: 1, 13: 2, 14: 2}.get(rate_code, 0)
        if lead & 0xC0 != 0x80:
            number = lead if length == 1 else lead & (0x7F >> length)
            for byte in head[at + 5 : at + 4 + length]:
                number = number << 6 | byte & 0x3F
            if end < len(head) and _crc8(head[at:end]) == head[end]:
                kind = head[at + 1 : at + 2] + bytes([rate_code, head[at + 3] & 0x0E])
                if former and former[0] == kind and number > former[1]:
                    yield start
                former, start = (kind, number), at


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc << 1 & 0xFF ^ (7 if crc & 0x80 else 0)
    return crc


# --- frames that follow each other ------------------------------------------------------

# ISO 11172-3 and 13818-3, table of bit rates in kb/s, by MPEG-1 or later and by layer.
_BITRATES = {
    (True, 1): tuple(range(0, 480, 32)),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_RATES = (44_100, 48_000, 32_000)

#: A frame's length in bytes, and what all frames of its stream have in common.
_Frame = tuple[int, bytes]


def _mpeg_frame(header: bytes) -> _Frame | None:
    """A frame of MPEG audio, layer I to III (ISO 11172-3, 2.4.1.3; MPEG-2.5 likewise)."""
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bitrate, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bitrate in (0, 15) or rate == 3:
        return None
    hertz = _RATES[rate] >> {3: 0, 2: 1, 0: 2}[version]
    bits = _BITRATES[version == 3, layer][bitrate] * 1000
    if layer == 1:
        length = (12 * bits // hertz + padding) * 4
    else:
        length = (72 if layer == 3 and version != 3 else 144) * bits // hertz + padding
    common = bytes([header[1] & 0xFE, header[2] & 0x0C, header[3] & 0xCF])
    return length, common


def _adts_frame(header: bytes) -> _Frame | None:
    """A frame of AAC in ADTS (ISO 13818-7, 6.2)."""
    length = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    if header[2] >> 2 & 15 > 12 or length < 7:
        return None
    return length, bytes([header[1], header[2] & 0xFD, header[3] & 0xC0])


_AC3_BITRATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576,
                 640)  # fmt: skip


def _ac3_frame(header: bytes) -> _Frame | None:
    """A frame of AC-3 (ATSC A/52, 5.4.1)."""
    rate, code = header[4] >> 6, header[4] & 63
    if header[5] >> 3 > 10 or rate == 3 or code > 37:
        return None
    kilobits = _AC3_BITRATES[code >> 1]
    words = (2 * kilobits, kilobits * 320 // 147 + (code & 1), 3 * kilobits)[rate]
    return 2 * words, bytes([header[4] & 0xC0, header[5]])


def _eac3_frame(header: bytes) -> _Frame | None:
    """A frame of E-AC-3 (ATSC A/52, E.2.3.1)."""
    if not 10 < header[5] >> 3 <= 16:
        return None
    length = ((header[2] & 7) << 8 | header[3]) + 1
    return 2 * length, bytes([header[4] & 0xC0, header[5] & 0xF8])


def _sbc_frame(header: bytes) -> _Frame | None:
    """A frame of SBC (Bluetooth A2DP 1.3, 12.6 and 12.9)."""
    bands, blocks = (8 if header[1] & 1 else 4), 4 * (header[1] >> 4 & 3) + 4
    mode, bits = header[1] >> 2 & 3, header[2]  # mono, dual, stereo, joint stereo
    if not 2 <= bits <= (16 if mode < 2 else 32) * bands:
        return None
    channels = 2 if mode else 1
    coded = blocks * bits * (2 if mode == 1 else 1) + (bands if mode == 3 else 0)
    return 4 + bands * channels // 2 + (coded + 7) // 8, header[1:2]


class _Frames(NamedTuple):
    """Frames of one format: how their headers look, and how many must follow another."""

    format: str
    headers: re.Pattern[bytes]
    frame: Callable[[bytes], _Frame | None]
    fewest_pairs: int


def _headers(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(b"(?=(%b))" % pattern, re.DOTALL)  # they may overlap


_MPEG = _Frames("mp3", _headers(rb"\xff[\xe2-\xe5\xf2-\xf5\xfa-\xfd].{4}"), _mpeg_frame, 1)
_ADTS = _Frames("aac", _headers(rb"\xff[\xf0\xf1\xf8\xf9].{4}"), _adts_frame, 1)
_FRAMES = [
    _MPEG,
    _ADTS,
    # Layer I: in machine code bytes of -1 are everywhere.
    _Frames("mp3", _headers(rb"\xff[\xe6\xe7\xf6\xf7\xfe\xff].{4}"), _mpeg_frame, 8),
    _Frames("ac3", _headers(rb"\x0b\x77.{4}"), _ac3_frame, 1),
    _Frames("eac3", _headers(rb"\x0b\x77.{4}"), _eac3_frame, 1),
    # A byte of sync alone.
    _Frames("sbc", _headers(rb"\x9c.{5}"), _sbc_frame, 12),
]
_FEWEST_FRAMES = 4


class _Seen:
    """Frames of one stream in a part of a file."""

    def __init__(self) -> None:
        self.frames = self.pairs = self.overlaps = 0
        self.first_pair = self._start = self._end = 0

    def add(self, start: int, length: int) -> None:
        """Add a frame, in the order of the file."""
        if self.frames and start == self._end:
            if not self.pairs:
                self.first_pair = self._start
            self.pairs += 1
        self.overlaps += start < self._end
        self.frames += 1
        self._start, self._end = start, start + length

    def convince(self, fewest_pairs: int) -> bool:
        """Whether they can't be there by chance.

        Two that follow each other are what FFmpeg's demuxers ask for.  By chance they are in one
        of a million random files of this length, and in one of two thousand programs, once those
        are left out that have many more alone or within each other.
        """
        return (
            self.frames >= _FEWEST_FRAMES
            and self.pairs >= max(fewest_pairs, self.frames / 50)
            and self.overlaps <= self.frames / 4
        )


def _first_frame(head: bytes, kind: _Frames) -> int | None:
    """Where the first frame begins that another of its stream follows."""
    streams: defaultdict[bytes, _Seen] = defaultdict(_Seen)
    for found in kind.headers.finditer(head):
        if frame := kind.frame(found[1]):
            length, common = frame
            seen = streams[common]
            seen.add(found.start(), length)
            if seen.pairs > 50 and seen.convince(kind.fewest_pairs):
                break
    convincing = [seen for seen in streams.values() if seen.convince(kind.fewest_pairs)]
    return min((seen.first_pair for seen in convincing), default=None)


# --- where to look ----------------------------------------------------------------------

_PADDING = re.compile(rb"[\0\s]*(?:\xef\xbb\xbf|\xff\xfe|\xfe\xff)?[\0\s]*")


def _behind_tags(file: BinaryIO) -> int:
    """Where any tags at the start end, by what they say.

    Formats: id3.org, "ID3 tag version 2.4.0", section 3.1: the size is four bytes of seven bits
    each and doesn't count the header.  APEv2: the size is the whole tag's but for the header.
    """
    at = 0
    while header := file.read(32):
        if header[:3] == b"ID3" and len(header) >= 10:
            size = 0
            for byte in header[6:10]:
                size = size << 7 | byte & 0x7F
            at += 10 + size + (10 if header[5] & 0x10 else 0)
        elif header[:8] == b"APETAGEX" and len(header) == 32:
            at += 32 + int.from_bytes(header[12:16], "little")
        else:
            break
        file.seek(at)
    return at


def _starts_with(head: bytes) -> tuple[str, int] | None:
    """The format that a part of a file begins with, behind padding, and where."""
    behind_padding = _PADDING.match(head)
    assert behind_padding
    for at in dict.fromkeys((0, behind_padding.end())):
        for name, signature in _SIGNATURES:
            if signature.match(head, at):
                return name, at
        for name, places in (("ogg", _ogg_pages), ("flac", _flac_starts)):
            if head[at : at + 4] in (b"OggS", b"fLaC") and next(places(head), None) == at:
                return name, at
        for kind in _FRAMES:
            header = kind.headers.match(head, at)
            frame = kind.frame(header[1]) if header else None
            # The first may differ from the others: LAME's holds a table and no sound.
            if frame and _first_frame(head[at:], kind) in (0, frame[0]):
                return kind.format, at
    return ("m4a", 0) if _OLD_QUICKTIME.match(head) else None


def _search(head: bytes) -> tuple[str, int] | None:
    """The first container within a part of a file, and where it begins."""
    if _HOLDERS.match(head) or any(signature.match(head) for _, signature in _OTHERS):
        return None
    starts = [
        (found.start(), name)
        for name, signature in _SIGNATURES
        if (found := signature.search(head, 0, _MOST_JUNK))
    ]
    searches = [("ogg", _ogg_pages(head)), ("flac", _flac_starts(head))]
    searches += [("flac", _flac_frames(head))]
    places = [(next(places, None), name) for name, places in searches]
    places += [(_first_frame(head, kind), kind.format) for kind in _FRAMES]
    starts += [(at, name) for at, name in places if at is not None]
    return min(starts)[::-1] if starts else None


def identify(file: BinaryIO) -> Found | None:
    """Find the sound in a file.

    Args:
        file: Open for reading in binary at its begin; its position changes.

    Returns:
        The container, or None if it is none of `DEMUXERS`.

    Raises:
        OSError: the file can't be read.
    """
    tags = _behind_tags(file)
    file.seek(tags)
    head = file.read(_HEAD)
    if start := _starts_with(head):
        return Found(start[0], tags + start[1], 0)
    hint = next((name for name, mark in _HINTS if head.startswith(mark)), None)
    if tags and not hint:  # the tags' size may be wrong
        file.seek(0)
        if found := _search(file.read(_HEAD)):
            return Found(found[0], found[1], max(found[1] - tags, 0))
    found = _search(head)
    if found and found[0] != hint:
        return Found(found[0], tags + found[1], found[1])
    if hint or tags:
        return Found(hint or "mp3", tags, 0)
    # Too short for a second frame, or damaged right behind the first.
    behind_zeros = head.lstrip(b"\0")
    for kind in (_MPEG, _ADTS):
        if (first := kind.headers.match(behind_zeros)) and kind.frame(first[1]):
            return Found(kind.format, len(head) - len(behind_zeros), 0)
    return None


# --- what isn't taken -------------------------------------------------------------------

#: What people call kinds of audio that libmagic knows and that aren't taken.
_NAMES = {
    "application/vnd.rn-realmedia": "RealMedia",
    "application/x-shockwave-flash": "Flash",
    "audio/midi": "MIDI",
    "audio/x-ape": "Monkey's Audio",
    "audio/x-mod": "tracker module",
    "audio/x-mp4a-latm": "AAC in LATM",
    "audio/x-musepack": "Musepack",
    "audio/x-pn-realaudio": "RealAudio",
    "video/mpeg": "MPEG video",
}


#: What FFmpeg takes for sound without a header by the end of its name alone.
_HEADERLESS = {
    ".al": "A-law",
    ".ul": "mu-law",
    ".sb": "PCM of 8 bits",
    ".ub": "PCM of 8 bits",
    ".sw": "PCM of 16 bits",
    ".uw": "PCM of 16 bits",
    ".sln": "signed linear PCM",
    ".g722": "G.722",
    ".722": "G.722",
    ".g723_1": "G.723.1",
    ".tco": "G.723.1",
    ".rco": "G.723.1",
    ".g729": "G.729",
    ".aptx": "aptX",
    ".aptxhd": "aptX HD",
    ".msbc": "mSBC",
    ".dfpwm": "DFPWM",
    ".rso": "Lego RSO",
}
_UNKNOWN = "not audio: application/octet-stream"


def with_name(reason: str, name: str) -> str:
    """What `why_not` says, with what a member's name tells where its bytes tell nothing."""
    codec = _HEADERLESS.get(PurePosixPath(name).suffix.lower())
    if reason != _UNKNOWN or codec is None:
        return reason
    return f"{NOT_TAKEN}: {codec} without a header, as its name says"


def why_not(file: BinaryIO) -> str:
    """Why a file in which `identify` found nothing is left out, as a manifest's row says it.

    Raises:
        OSError: the file can't be read.
    """
    # Loading it takes a worker longer than a clip's first second, and most never need it.
    import pylibmagic  # noqa: F401  # brings the library that magic loads

    import magic  # isort: skip

    file.seek(0)
    head = file.read(64 << 10)
    for name, signature in _OTHERS:
        if signature.match(head):
            return f"{NOT_TAKEN}: {name}"
    kind = magic.from_buffer(head, mime=True)
    if kind not in _NAMES and not kind.startswith(("audio/", "video/")):
        return f"not audio: {kind}"
    # libmagic's own words go into figures that belong to the one file.
    return f"{NOT_TAKEN}: {_NAMES.get(kind) or magic.from_buffer(head).split(',')[0]}"
