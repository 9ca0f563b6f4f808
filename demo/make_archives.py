"""Make the demo's archives again, and the table of what the workflow should find in them.

    python -m demo.make_archives

Run from the repository's root; needs espeak-ng. Every clip is spoken from held-out
sentences, which no model of the demo was trained on. Four archives hold what arrives in
practice, good and bad, and a fifth is an error page that was saved under an archive's
name. The output is the same for the same version of espeak-ng and FFmpeg.
"""

import argparse
import dataclasses
import gzip
import io
import json
import os
import random
import tarfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from demo.training import sentences, speech
from earmark.ingest.tarstream import readable

HERE = Path(__file__).resolve().parent
SEED = 20261101
DAY = "2026-11-01"
MODIFIED = int(datetime.fromisoformat(DAY).replace(tzinfo=UTC).timestamp())

Audio = npt.NDArray[np.float32]

LONGEST_SECONDS = 60.0
#: Of ten clips six are benign; a clip that isn't has benign sentences beside the others.
KINDS = [*["benign"] * 6, "scams", "violent-threats", "harassment", "spanish"]
#: Sentences per clip; each takes about three seconds with the pause behind it.
LENGTHS = [1, 1, 1, 3, 4, 8, 17, 17]
#: Container, encoder, sample format, rate in Hz and bits per second per file extension.
FORMATS = {
    "mp3": ("mp3", "libmp3lame", "s16p", 24_000, 64_000),
    "m4a": ("ipod", "aac", "fltp", 24_000, 48_000),
    "wav": ("wav", "pcm_s16le", "s16", 16_000, None),
    "flac": ("flac", "flac", "s16", 16_000, None),
}


@dataclasses.dataclass
class Member:
    """One member of an archive and what the workflow should make of it.

    Attributes:
        name: Its name in the tar.
        content: Its bytes; empty for a link.
        status: As in the manifest.
        error: A part of the manifest's error; None if there is none.
        language: ISO 639-1 of what is said; None without speech.
        kinds: Kinds of the sentences said.
        text: What is said, without punctuation; None if there is nothing to transcribe.
        link: Where it points to, if it is a symbolic link.
    """

    name: str
    content: bytes = b""
    status: str = "ok"
    error: str | None = None
    language: str | None = None
    kinds: list[str] = dataclasses.field(default_factory=list)
    text: str | None = ""
    link: str | None = None


def encode(audio: Audio, extension: str) -> bytes:
    """Encode 16 kHz mono audio as the format of a file extension."""
    container_format, codec, sample_format, rate, bit_rate = FORMATS[extension]
    file = io.BytesIO()
    exact = {"fflags": "+bitexact"}
    with av.open(file, "w", format=container_format, options=exact) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        assert isinstance(stream, av.AudioStream)
        if bit_rate:
            stream.bit_rate = bit_rate
        resampler = av.AudioResampler(sample_format, "mono", rate)
        frame = av.AudioFrame.from_ndarray(audio[None, :], format="flt", layout="mono")
        frame.sample_rate = speech.SAMPLE_RATE
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return file.getvalue()


def post_id(rng: random.Random) -> str:
    """A name as platforms give to their clips."""
    return str(rng.randrange(7 * 10**18, 8 * 10**18))


def clip(
    rng: random.Random, kind: str, sentence_count: int, name: str = "", extension: str = "mp3"
) -> Member:
    """A clip of held-out sentences; other kinds than benign and spanish are mixed with benign."""
    pools = {each: sentences.split(each)[1] for each in sentences.KINDS}
    flagged = kind in sentences.CATEGORIES
    drawn = ["benign" if flagged else kind] * sentence_count
    if flagged:
        # Early enough to be said within the longest clip.
        for place in rng.sample(range(min(sentence_count, 10)), 1 + sentence_count // 6):
            drawn[place] = kind
    script = [rng.choice(pools[each]) for each in drawn]
    language = sentences.language(kind)
    audio, text = speech.compose(rng, script, language, LONGEST_SECONDS)
    said = next(n for n in range(len(script), 0, -1) if " ".join(script[:n]) == text)
    return Member(
        name or f"{post_id(rng)}.{extension}",
        encode(audio.astype(np.float32), extension),
        language=language,
        kinds=sorted(set(drawn[:said])),
        text=text,
    )


def clips(rng: random.Random, count: int) -> list[Member]:
    """Clips of the usual mix of kinds and lengths."""
    kinds = [KINDS[index % len(KINDS)] for index in range(count)]
    lengths = [LENGTHS[index % len(LENGTHS)] for index in range(count)]
    rng.shuffle(kinds)
    rng.shuffle(lengths)
    return [clip(rng, kind, length) for kind, length in zip(kinds, lengths, strict=True)]


def music(rng: random.Random, seconds: float) -> Audio:
    """Broken chords without a word."""
    time = np.arange(speech.SAMPLE_RATE // 2) / speech.SAMPLE_RATE
    notes = []
    for _ in range(int(seconds * 2)):
        root = 220.0 * 2 ** (rng.choice([0, 3, 5, 7, 8, 10]) / 12)
        tones = [np.sin(2 * np.pi * root * ratio * time) for ratio in (1, 1.25, 1.5, 2)]
        notes.append(0.1 * sum(tones) * np.exp(-4 * time))
    return np.concatenate(notes).astype(np.float32)


def corrupt_mp3(rng: random.Random) -> Member:
    """The header of an MP3 and nothing but noise behind it."""
    content = b"\xff\xfb\x90\x00" + rng.randbytes(3000)
    error = "no audio can be decoded"
    return Member(f"{post_id(rng)}.mp3", content, "failed", error, text=None)


def pack(members: Sequence[Member], folder: str | None = None) -> bytes:
    """A tar of the members, below a folder if one is given."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as tar:
        if folder is not None:
            info = tarfile.TarInfo(folder)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, MODIFIED
            tar.addfile(info)
        for member in members:
            info = tarfile.TarInfo(member.name)
            info.size, info.mtime = len(member.content), MODIFIED
            if member.link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, member.link
            tar.addfile(info, io.BytesIO(member.content))
    return file.getvalue()


def describe(kind: str, status: str, error: str | None, members: Sequence[Member]) -> object:
    """What the workflow should say of one archive."""
    first_of: dict[bytes, int] = {}
    rows = []
    for ordinal, member in enumerate(members):
        first = first_of.setdefault(member.content, ordinal)
        rows.append(
            {
                "ordinal": ordinal,
                "member": readable(member.name),
                "status": member.status,
                "error": member.error,
                "duplicate_of": first if member.content and first != ordinal else None,
                "language": member.language,
                "kinds": member.kinds,
                "categories": [each for each in member.kinds if each in sentences.CATEGORIES],
                "text": member.text,
            }
        )
    return {"type": kind, "status": status, "error": error, "members": rows}


def make(folder: Path, expected: Path) -> None:
    """Write the archives to a folder and what to find in them to a JSON file."""
    rng = random.Random(SEED)
    found: dict[str, object] = {}
    files: dict[str, bytes] = {}

    # What arrives most often: a plain tar that is called .tar.gz.
    name = f"sound_{DAY}_00.tar.gz"
    members = clips(rng, 12)
    members.insert(3, clip(rng, "benign", 3, name="../../etc/cron.d/evil.mp3"))
    members.insert(8, clip(rng, "spanish", 3, name=os.fsdecode(b"canci\xf3n_ma\xf1ana.mp3")))
    files[name] = pack(members)
    found[name] = describe("tar", "ok", None, members)

    # A gzip that is one, with a folder, other formats than MP3, and a link.
    name = f"sound_{DAY}_01.tar.gz"
    members = clips(rng, 9)
    members.insert(1, clip(rng, "benign", 4, extension="m4a"))
    members.insert(4, clip(rng, "scams", 1, extension="wav"))
    members.insert(6, clip(rng, "harassment", 1, extension="flac"))
    for member in members:
        member.name = f"sound/{member.name}"
    error = "not a file: symbolic link"
    link = Member("sound/latest.mp3", b"", "skipped", error, text=None, link="/etc/passwd")
    members.append(link)
    files[name] = gzip.compress(pack(members, "sound"), mtime=0)
    found[name] = describe("tar.gz", "ok", None, members)

    # The smallest: short clips and what is no speech, no audio, or not whole.
    small = name = f"sound_{DAY}_02.tar"
    notes = b"These clips were collected on 1 November 2026.\n"
    members = [
        clip(rng, "benign", 1),
        clip(rng, "scams", 1),
        Member("README.txt", notes, "skipped", "not audio: text/plain", text=None),
        clip(rng, "violent-threats", 1),
        corrupt_mp3(rng),
        Member(f"{post_id(rng)}.mp3", encode(speech.silence(12), "mp3")),
        clip(rng, "spanish", 2),
        Member(f"{post_id(rng)}.mp3", encode(music(rng, 15), "mp3")),
        clip(rng, "harassment", 2),
        clip(rng, "benign", 4),
    ]
    members.append(dataclasses.replace(members[1], name=f"{post_id(rng)}.mp3"))
    files[name] = pack(members)
    found[name] = describe("tar", "ok", None, members)

    # A transfer that broke off in the middle of a member.
    name = f"sound_{DAY}_03.tar.gz"
    members = clips(rng, 10)
    arrived = len(members[-1].content) // 2
    members[-1] = dataclasses.replace(
        members[-1], status="failed", error="truncated", language=None, kinds=[], text=None
    )
    whole = pack(members)
    files[name] = whole[: whole.index(members[-1].content) + arrived]
    found[name] = describe("tar", "partial", "truncated", members)

    # An error page that was saved as an archive.
    name = f"sound_{DAY}_04.tar.gz"
    page = "<!DOCTYPE html>\n<html><head><title>502 Bad Gateway</title></head></html>\n"
    files[name] = page.encode()
    found[name] = describe("unknown", "failed", "not an archive that is taken", [])

    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("sound_*"):
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
        print(f"{name}: {len(content):,} bytes")
    table = json.dumps({"small": small, "archives": found}, indent=1, ensure_ascii=False)
    expected.write_text(table + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=HERE / "archives", help="for the archives")
    parser.add_argument(
        "--expected", type=Path, default=HERE / "expected.json", help="what should be found in them"
    )
    options = parser.parse_args()
    make(options.folder, options.expected)


if __name__ == "__main__":
    main()
