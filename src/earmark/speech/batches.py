"""Full batches from the windows of many clips, and their words by clip again.

A clip of a minute has two or three windows of speech: batches within a clip are nearly
empty.  The windows of several batches' worth of clips are sorted by their seconds of
speech, so that those of a batch have about as many words and none waits long for another.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from earmark.gpu import HalvingBatch
from earmark.speech.preparation import Prepared, Window
from earmark.speech.recognition import Hypothesis, Language, Recogniser
from earmark.speech.transcript import Transcript, put_together

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
    heard: dict[int, Hypothesis] = field(default_factory=dict)  # by the window's place
    language: Language | None = None
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
        heard = [self.heard[place] for place in range(len(windows))]
        return Transcribed(self.prepared, put_together(windows, heard, self.language), seconds)


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
        """A clip's language is that of its window with the most speech.

        WhisperX looks at the first 30 s of the file, silence and music included.
        """
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

    def _hear(self, batch: Sequence[_Waiting]) -> list[Hypothesis]:
        encoded = self._recogniser.encode([each.window.features for each in batch])
        if any(each.tells_language for each in batch):
            languages = self._recogniser.detect_languages(encoded)
            for each, language in zip(batch, languages, strict=True):
                if each.tells_language:
                    each.clip.language = language
        codes = []
        for each in batch:
            assert each.clip.language is not None
            codes.append(each.clip.language.code)
        return self._recogniser.decode(encoded, codes)
