"""What is heard against what is said: word and character error rates.

Both are compared in lower case, without punctuation; scripts without spaces between words have a
meaningful character error rate alone.
"""

import datetime
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from earmark import version
from earmark.errors import EarmarkError
from earmark.evaluation.gold import Gold, Reference, transcripts
from earmark.evaluation.metrics import Floats, estimates
from earmark.evaluation.results import SpeechEvaluation, WordErrors
from earmark.names import Name, asr_name
from earmark.settings import Settings
from earmark.speech.decoding import DECODING_FACTS
from earmark.speech.preparation import Clip
from earmark.speech.transcribe import Transcriber
from earmark.volume import Volume

#: What a clip is taken to last while nobody has opened it.
_SECONDS = 30.0


@dataclass(frozen=True)
class Heard:
    """A clip as a person wrote it down, and as it was heard.

    Attributes:
        number: Its line, or row.
        reference: What the person wrote.
        text: What was heard.
        language: ISO 639-1, as the person says, or else as it was heard.
    """

    number: int
    reference: Reference
    text: str
    language: str | None


def name_of(settings: Settings) -> Name:
    """The name of the transcription settings, and all that it stands for."""
    return asr_name(settings, Volume.of(settings), DECODING_FACTS)


def hear(settings: Settings, gold: Gold[Reference], conninfo: Callable[[], str]) -> list[Heard]:
    """What is heard in the clips of references.

    Clips have their transcript in the database; audio files are transcribed now.

    Args:
        settings: The configuration.
        gold: The references.
        conninfo: Gives the connection; called only if some name clips.

    Raises:
        EarmarkError: a clip has no transcript, a file can't be decoded, or the model is not there.
        OSError: the system refused to read.
    """
    found: dict[int, tuple[str, str | None]] = {}
    if any(row.clip is not None for _, row in gold.rows):
        known = transcripts(conninfo(), settings.asr.name, gold.rows)
        found |= {number: (each.text, each.language) for number, each in known.items()}
    clips = [
        Clip(number, gold.path.parent / row.audio, _SECONDS)
        for number, row in gold.rows
        if row.audio is not None
    ]
    for clip in clips:
        if not clip.path.is_file():
            raise EarmarkError(f"{gold.path}, row {clip.ordinal}: there is no file {clip.path}")
    if clips:
        with Transcriber(settings.asr) as transcriber:
            for each in (each for batch in transcriber.transcribe(clips) for each in batch):
                clip = each.prepared.clip
                if each.transcript is None:
                    raise EarmarkError(
                        f"{gold.path}, row {clip.ordinal}: {clip.path} can't be decoded "
                        f"({each.prepared.error})"
                    )
                found[clip.ordinal] = each.transcript.text, each.transcript.language
    return [
        Heard(number, row, found[number][0], row.language or found[number][1])
        for number, row in gold.rows
    ]


def evaluate(settings: Settings, gold: Gold[Reference], heard: Sequence[Heard]) -> SpeechEvaluation:
    """Error rates of all clips, and by language.

    Args:
        settings: What they were heard with.
        gold: The references.
        heard: What was heard.
    """
    errors = [errors_of(each.reference.text, each.text) for each in heard]
    languages: list[str | None] = sorted(
        {each.language for each in heard}, key=lambda code: code or ""
    )
    chosen: dict[str | None, list[int]] = {
        language: [n for n, each in enumerate(heard) if each.language == language]
        for language in languages
    }
    of_all = _word_errors(None, heard, errors)
    by_language = [
        _word_errors(language, [heard[n] for n in here], [errors[n] for n in here])
        for language, here in chosen.items()
    ]
    return SpeechEvaluation(
        asr=settings.asr.name,
        model=settings.asr.model,
        version=version.current(),
        made_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        gold=gold.path.name,
        gold_sha256=gold.sha256,
        errors=(of_all, *(by_language if len(languages) > 1 else ())),
    )


@dataclass(frozen=True)
class Errors:
    """Errors in one clip.

    Attributes:
        words: Words of the reference.
        wrong_words: Substituted, missing and added ones.
        characters: Characters of the reference.
        wrong_characters: Likewise.
    """

    words: int
    wrong_words: int
    characters: int
    wrong_characters: int


def errors_of(reference: str, text: str) -> Errors:
    """Count the errors in what was heard.

    Args:
        reference: What is said.
        text: What was heard.
    """
    import jiwer

    said, heard = _normal(reference), _normal(text)
    by_word, by_character = jiwer.process_words(said, heard), jiwer.process_characters(said, heard)

    def wrong(alignment: Any) -> int:
        return int(alignment.substitutions + alignment.deletions + alignment.insertions)

    return Errors(len(said.split()), wrong(by_word), len(said), wrong(by_character))


def _normal(text: str) -> str:
    """Lower case and one space between words; an apostrophe parts no word, a dash does."""
    text = unicodedata.normalize("NFC", text).lower().replace("'", "").replace("’", "")
    kinds = (unicodedata.category(sign) for sign in text)
    parted = (
        " " if kind == "Cc" or kind[0] == "P" else sign
        for sign, kind in zip(text, kinds, strict=True)
    )
    return " ".join("".join(parted).split())


def _word_errors(
    language: str | None, heard: Sequence[Heard], errors: Sequence[Errors]
) -> WordErrors:
    counts = np.array(
        [(e.words, e.wrong_words, e.characters, e.wrong_characters) for e in errors], dtype=float
    )

    def rates(ways: Floats) -> Mapping[str, Floats]:
        words, wrong_words, characters, wrong_characters = (ways @ counts).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"wer": wrong_words / words, "cer": wrong_characters / characters}

    return WordErrors(
        language=language,
        clips=len(heard),
        words=int(counts[:, 0].sum()),
        **estimates(rates, [each.reference.text for each in heard], np.ones(len(heard))),
    )


def worst(heard: Sequence[Heard], most: int) -> list[dict[str, Any]]:
    """The clips with the most wrong words, with what was said and heard.

    Args:
        heard: All clips.
        most: At most so many.
    """
    counted = [(errors_of(each.reference.text, each.text), each) for each in heard]
    counted = [pair for pair in counted if pair[0].wrong_words]
    counted.sort(key=lambda pair: -pair[0].wrong_words)
    return [
        {
            "row": each.number,
            "id": each.reference.id,
            "language": each.language,
            "wrong words": errors.wrong_words,
            "of": errors.words,
            "said": each.reference.text,
            "heard": each.text,
        }
        for errors, each in counted[:most]
    ]
