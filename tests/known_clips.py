"""Clips of the demo, and what the real encoder and the real models make of each, asked once.

A stage that a test runs thousands of times gets the answers by content instead of computing them
anew. All else of the stages is real: what they read, write, check, keep, name and leave.
"""

import hashlib
import pickle
import tarfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import duckdb
import pytest
from demo_clips import DEMO, EXPECTED, QUICK
from demo_record import CLASSIFIER, POLICIES
from mortal import in_child

from earmark import locks
from earmark.files import whole
from earmark.ingest import encode, media, unpack
from earmark.ingest.tarstream import read_members
from earmark.policy import classify
from earmark.policy.classifier import Classification, Classifier
from earmark.policy.policies import Policy
from earmark.record import load
from earmark.settings import EncodeSettings
from earmark.speech import transcribe
from earmark.speech.batches import Transcribed
from earmark.speech.preparation import Clip, Prepared
from earmark.speech.transcribe import Transcriber
from earmark.speech.transcript import Transcript

#: Clips with words, each other ones.
SPOKEN = 6
NOTE = b"no audio, and no clip"


@dataclass(frozen=True)
class Known:
    """Contents, and what becomes of each.

    Attributes:
        contents: The clips' files, and at the end something that is no audio, by SHA-256.
        encoded: The encoder's answer and the Opus file, by SHA-256 of the content.
        heard: What was said, by SHA-256 of the Opus file.
        judged: The classifier's answer, by category and text.
    """

    contents: dict[str, bytes]
    encoded: dict[str, tuple[dict[str, Any], bytes]]
    heard: dict[str, Transcript]
    judged: dict[tuple[str, str], Classification]

    def text(self, content: str) -> str | None:
        """What is said in a content; None if it is no audio."""
        answer, opus = self.encoded[content]
        return self.heard[sha256(opus)].text if answer["status"] == "ok" else None


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def known_clips(folder: Path) -> Known:
    """The clips, computed by the first process that asks for them.

    Args:
        folder: Where they are kept for the others.
    """
    path = folder / "known-clips.pickle"
    with locks.exclusive(folder / "known-clips.lock"):
        if not path.exists():
            assert in_child(lambda: _compute(path)) == 0  # with the models' libraries
    known: Known = pickle.loads(path.read_bytes())
    return known


def _compute(kept_in: Path) -> None:
    folder = kept_in.parent
    chosen: dict[str, bytes] = {}
    for name, facts in EXPECTED["archives"].items():
        texts = {row["ordinal"]: row["text"] for row in facts["members"]}
        if facts["status"] != "ok":
            continue
        with tarfile.open(DEMO / "archives" / name) as archive:
            files = [member for member in archive if member.isreg()]
            for ordinal, member in enumerate(files):
                file = archive.extractfile(member)
                if file and texts.get(ordinal):
                    content = file.read()
                    if len(content) < len(chosen.get(texts[ordinal], content + b"x")):
                        chosen[texts[ordinal]] = content
    contents = {sha256(each): each for each in sorted(chosen.values(), key=len)[:SPOKEN]}
    contents[sha256(NOTE)] = NOTE
    encoded = {}
    for sha, content in contents.items():
        source, target = folder / "content", folder / "content.opus"
        source.write_bytes(content)
        target.unlink(missing_ok=True)
        answer = media._answer({"source": str(source), "target": str(target)}, EncodeSettings())
        encoded[sha] = answer, target.read_bytes() if answer["status"] == "ok" else b""
    clips = {}
    for ordinal, (answer, opus) in enumerate(encoded.values()):
        if opus:
            path = folder / f"{ordinal}.opus"
            path.write_bytes(opus)
            clips[ordinal] = Clip(ordinal, path, answer["duration_seconds"])
    heard = {}
    with Transcriber(QUICK) as transcriber:
        for batch in transcriber.transcribe(clips.values()):
            for done in batch:
                assert done.transcript is not None
                heard[sha256(done.prepared.clip.path.read_bytes())] = done.transcript
    assert len({each.text for each in heard.values()}) == SPOKEN
    classifier = Classifier(CLASSIFIER)
    judged = {}
    for policy in POLICIES:
        asked = [each.text for each in heard.values()]
        if policy.examples:
            asked += [policy.examples.flagged, policy.examples.not_flagged]
        for index, classification in classifier.classify(policy, asked):
            judged[policy.category, asked[index]] = classification
    with whole(kept_in) as partial:
        partial.write_bytes(pickle.dumps(Known(contents, encoded, heard, judged)))


def give_answers(known: Known, patch: pytest.MonkeyPatch) -> None:
    """Let the stages ask for what is known instead of their processes and models."""

    class Encoders:
        """In place of the processes that encode."""

        def __init__(self, *_: object) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, work: Callable[[Any], Any]) -> Future[Any]:
            done: Future[Any] = Future()
            done.set_result(work(self))
            return done

        def ask(self, task: dict[str, str], _: float) -> tuple[dict[str, Any], bytes]:
            answer, opus = known.encoded[sha256(Path(task["source"]).read_bytes())]
            if opus:
                with whole(Path(task["target"]), keep_name=False) as partial:
                    partial.write_bytes(opus)
            return answer, b""

    class Hearer:
        """In place of Whisper."""

        gpu = SimpleNamespace(facts=dict)

        def __init__(self, _: object) -> None:
            pass

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def transcribe(self, clips: Iterable[Clip]) -> Iterator[list[Transcribed]]:
            for clip in clips:
                heard = known.heard.get(sha256(clip.path.read_bytes()))
                if heard is None:
                    yield [Transcribed(Prepared(clip, error="it can't be decoded"), None, 0.1)]
                else:
                    yield [Transcribed(Prepared(clip), replace(heard), 0.1)]

    class Judge:
        """In place of CoPE-A."""

        def __init__(self, settings: object) -> None:
            self.settings = settings

        def classify(
            self, policy: Policy, texts: Iterable[str]
        ) -> Iterator[tuple[int, Classification]]:
            for index, text in enumerate(texts):
                yield index, known.judged[policy.category, text]

    def read_here(
        archive: Path, kind: str, destination: Path, limits: Any
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """In place of the process that reads an archive."""
        assert kind == "tar"
        rows: dict[int, dict[str, Any]] = {}
        end: dict[str, Any] = {}

        def tell(message: dict[str, Any]) -> None:
            if "row" in message:
                rows[message["row"]["ordinal"]] = message["row"]
            else:
                end.update(message["end"])

        read_members(archive, None, destination, limits, tell)
        return list(rows.values()), end

    def version(package: str) -> str:
        """In place of what each process looks up anew."""
        return versions[package]

    # To connect takes 20 ms.  With one thread the engine has none that a fork would lack.
    engine = duckdb.connect(config={"threads": 1})
    patch.setattr(load, "duckdb", SimpleNamespace(connect=engine.cursor))
    packages = ("faster-whisper", "whisperx", "transformers", "peft")
    versions = {package: metadata.version(package) for package in packages}
    for stage in (transcribe, classify):
        patch.setattr(stage, "version", version)
    patch.setattr(encode, "Workers", Encoders)
    patch.setattr(transcribe, "Transcriber", Hearer)
    patch.setattr(classify, "Classifier", Judge)
    patch.setattr(unpack, "_read_in_child", read_here)
