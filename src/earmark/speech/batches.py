"""Full batches from the windows of many clips, and their words by clip again.

A clip of a minute has two or three windows of speech: batches within a clip are nearly
empty.  The windows of several batches' worth of clips are sorted by their seconds of
speech, so that those of a batch have about as many words and none waits long for another.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from earmark.gpu import HalvingBatch
from earmark.speech.languages import are_two, best, cut_at_changes, language_of
from earmark.speech.preparation import Prepared, Window
from earmark.speech.recognition import Hypothesis, Language, Recogniser
from earmark.speech.transcript import Heard, Transcript, put_together

#: Windows of so many batches are sorted together.
BATCHES_TOGETHER = 4


@dataclass(frozen=True)
class Transcribed:
    """A clip that is done.

    Attributes:
        prepared: The clip.
        transcript: What was said; None if nothing could be had from it.
        seconds: What it took: its preparation, and its windows' share of their batches.
    """

    prepared: Prepared
    transcript: Transcript | None
    seconds: float


@dataclass
class _OpenClip:
    """A clip some of whose windows still have to pass the model."""

    prepared: Prepared
    heard: dict[int, list[Heard]] = field(default_factory=dict)  # by the window's place
    language: str = ""  # of the window with the most speech, once that was looked at
    seconds: float = 0.0

    def __post_init__(self) -> None:
        windows = self.prepared.windows
        self.telling = max(
            range(len(windows)), key=lambda n: (windows[n].speech_seconds, -n), default=0
        )

    @property
    def is_done(self) -> bool:
        return len(self.heard) == len(self.prepared.windows)

    def result(self) -> Transcribed:
        windows = self.prepared.windows
        seconds = self.prepared.seconds + self.seconds
        if self.prepared.error is not None:
            return Transcribed(self.prepared, None, seconds)
        heard = [each for place in range(len(windows)) for each in self.heard[place]]
        return Transcribed(self.prepared, put_together(heard), seconds)


@dataclass
class _Waiting:
    """A window that waits for its batch."""

    clip: _OpenClip
    place: int  # among the clip's windows
    is_postponed: bool = False

    @property
    def window(self) -> Window:
        return self.clip.prepared.windows[self.place]

    @property
    def tells_language(self) -> bool:
        """A clip's language is that of its window with the most speech."""
        return self.place == self.clip.telling


class Batcher:
    """Transcribes clips in batches of their windows."""

    def __init__(self, recogniser: Recogniser, batch_size: int) -> None:
        """Use a model in batches of so many windows, or fewer once its memory was full."""
        self._recogniser = recogniser
        self._batches = HalvingBatch(batch_size, "asr.batch_size")
        self._waiting: list[_Waiting] = []

    def transcribe(self, clips: Iterable[Prepared]) -> Iterator[list[Transcribed]]:
        """Transcribe clips; those without speech and failed ones never reach the model.

        Args:
            clips: Taken one after the other, no more than some batches need.

        Yields:
            The clips that are done, after each batch; not in the order of the clips.
        """
        for prepared in clips:
            clip = _OpenClip(prepared)
            if clip.is_done:
                yield [clip.result()]
            self._waiting.extend(_Waiting(clip, place) for place in range(len(prepared.windows)))
            if len(self._waiting) >= BATCHES_TOGETHER * self._batches.size:
                yield from self._work_off(len(self._waiting) % self._batches.size)
        yield from self._work_off(0)

    def _work_off(self, postponed: int) -> Iterator[list[Transcribed]]:
        """Send the windows through the model, all but some that would not fill a batch."""
        # The one that tells a clip's language is never behind the clip's others.
        self._waiting.sort(key=lambda each: (-each.window.speech_seconds, each.place))
        fresh = [each for each in reversed(self._waiting) if not each.is_postponed]
        for each in fresh[:postponed]:
            each.is_postponed = True
        left = {id(each) for each in fresh[:postponed]}
        now = [each for each in self._waiting if id(each) not in left]
        self._waiting = fresh[:postponed]
        while now:
            size = self._batches.size
            batch, now = now[:size], now[size:]
            yield self._transcribe_batch(batch)

    def _transcribe_batch(self, batch: Sequence[_Waiting]) -> list[Transcribed]:
        started = time.monotonic()
        heard = self._batches.run(self._hear, batch)
        seconds = (time.monotonic() - started) / len(batch)
        done = []
        for each, words in zip(batch, heard, strict=True):
            each.clip.heard[each.place] = words
            each.clip.seconds += seconds
            if each.clip.is_done:
                done.append(each.clip.result())
        return done

    def _hear(self, batch: Sequence[_Waiting]) -> list[list[Heard]]:
        windows = [each.window for each in batch]
        encoded = self._recogniser.encode([window.features for window in windows])
        found = self._recogniser.detect_languages(encoded)
        in_two = self._hear_changes(windows, encoded)
        for row, (each, probabilities) in enumerate(zip(batch, found, strict=True)):
            if each.tells_language:
                longest = max(
                    in_two.get(row, ()), key=lambda h: h.window.speech_seconds, default=None
                )
                each.clip.language = (longest.language if longest else best(probabilities)).code
        languages = [
            language_of(probabilities, each.clip.language, each.window.speech_seconds)
            for each, probabilities in zip(batch, found, strict=True)
        ]
        words = self._decode(encoded, languages, windows)
        return [
            in_two.get(row) or [Heard(*each)]
            for row, each in enumerate(zip(windows, languages, words, strict=True))
        ]

    def _decode(
        self, encoded: Any, languages: Sequence[Language], windows: Sequence[Window]
    ) -> list[Hypothesis]:
        codes = [language.code for language in languages]
        return self._recogniser.decode(encoded, codes, [each.speech_seconds for each in windows])

    def _hear_changes(self, windows: Sequence[Window], encoded: Any) -> dict[int, list[Heard]]:
        """What is heard in windows that are in two languages, by their places in the batch."""
        heard = {}
        for row, parts in cut_at_changes(self._recogniser, windows, encoded).items():
            again = self._recogniser.encode([part.features for part in parts])
            found = self._recogniser.detect_languages(again)
            if are_two(found):
                languages = [best(each) for each in found]
                words = self._decode(again, languages, parts)
                heard[row] = list(map(Heard, parts, languages, words))
        return heard
