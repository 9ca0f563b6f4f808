"""How windows of many clips share batches, whatever the clips and the batch's size.

A stand-in for the model says which window it heard, so that thousands of windows cost
nothing; `test_recognition` has the real one.
"""

import gc
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from earmark.speech.batches import BATCHES_TOGETHER, Batcher, Transcribed
from earmark.speech.preparation import Clip, Features, Prepared, Window
from earmark.speech.recognition import Hypothesis, Probabilities
from earmark.speech.transcript import LanguageShare, compression_ratio

pytestmark = pytest.mark.slow

LANGUAGES = ("en", "es", "de")


@dataclass
class Echo:
    """A model that hears a window's own number, in the language that the window is in."""

    room: int = 1000  # windows that fit into its memory
    sure: float = 0.6  # of a language: not enough for one that is not the clip's
    batches: list[list[tuple[int, str]]] = field(default_factory=list)
    speech: list[list[int]] = field(default_factory=list)

    def encode(self, features: Sequence[Features]) -> np.ndarray:
        if len(features) > self.room:
            raise RuntimeError("CUDA failed with error out of memory")
        return np.stack(features)

    @property
    def detects_languages(self) -> bool:
        return True

    def detect_languages(self, encoded: np.ndarray) -> list[Probabilities]:
        return [{LANGUAGES[int(each[1])]: self.sure, "it": 1 - self.sure} for each in encoded]

    def decode(
        self, encoded: np.ndarray, languages: Sequence[str], speech: Sequence[float]
    ) -> list[Hypothesis]:
        numbers = [int(each[0]) for each in encoded]
        self.batches.append(list(zip(numbers, languages, strict=True)))
        self.speech.append([int(each[2]) for each in encoded])
        return [Hypothesis(f"w{number}", -1.0, 2, 0.1) for number in numbers]


def clip(ordinal: int, speech: Sequence[float], language: int = 0, first: int = 0) -> Prepared:
    """A clip of windows with so much speech; the one with the most is in the language."""
    most = max(range(len(speech)), key=lambda n: (speech[n], -n), default=0)
    windows = tuple(
        Window(
            start=30.0 * n,
            end=30.0 * n + seconds,
            speech_seconds=seconds,
            features=np.array([first + n, language if n == most else 2 - language, seconds]),
        )
        for n, seconds in enumerate(speech)
    )
    return Prepared(Clip(ordinal, Path(str(ordinal)), 60.0), windows)


def transcribe(model: Echo, clips: Sequence[Prepared], size: int) -> list[Transcribed]:
    found = Batcher(model, size).transcribe(clips)  # type: ignore[arg-type]
    return [each for done in found for each in done]


#: Seconds of speech of each window, for each clip.
archives = st.lists(st.lists(st.integers(1, 30), max_size=5), max_size=40)


@settings(max_examples=80)
@given(archives, st.integers(1, 20), st.integers(1, 20))
def test_every_clip_gets_its_own_words_in_order_and_its_own_language(
    speech: list[list[int]], size: int, room: int
) -> None:
    clips, words, first = [], {}, 0
    for ordinal, seconds in enumerate(speech):
        clips.append(clip(ordinal, seconds, ordinal % 2, first))
        words[ordinal] = " ".join(f"w{first + n}" for n in range(len(seconds)))
        first += len(seconds)
    found = transcribe(Echo(room), clips, size)
    assert sorted(each.prepared.clip.ordinal for each in found) == list(range(len(clips)))
    for each in found:
        ordinal = each.prepared.clip.ordinal
        assert each.transcript is not None
        assert each.transcript.text == words[ordinal]
        language = LANGUAGES[ordinal % 2] if speech[ordinal] else None
        assert each.transcript.language == language
        starts = [segment.start for segment in each.transcript.segments]
        assert starts == sorted(starts)


@settings(max_examples=100)
@given(archives, st.integers(2, 10))
def test_only_the_last_batch_of_all_is_not_full(speech: list[list[int]], size: int) -> None:
    model = Echo()
    transcribe(model, [clip(n, seconds) for n, seconds in enumerate(speech)], size)
    sizes = [len(batch) for batch in model.batches]
    assert all(each == size for each in sizes[:-1])
    assert sum(sizes) == sum(map(len, speech))


@pytest.mark.parametrize(
    ("sure", "seconds", "languages"),
    [
        (0.9, 9, ["en", "de"]),  # clear, over enough speech
        (0.6, 9, ["en"]),  # not clear
        (0.9, 2, ["en"]),  # not enough speech, such as some names
    ],
)
def test_a_window_is_heard_in_another_language_than_its_clip_only_if_that_is_clear(
    sure: float, seconds: float, languages: list[str]
) -> None:
    model = Echo(sure=sure)
    (found,) = transcribe(model, [clip(0, [seconds, 20])], 2)
    assert found.transcript is not None
    assert found.transcript.languages is not None
    assert [each.language for each in found.transcript.languages] == languages
    assert sum(each.share for each in found.transcript.languages) == pytest.approx(1)
    assert found.transcript.languages[0].share == 20 / (20 + seconds * (len(languages) - 1))
    assert [each.language for each in found.transcript.segments] == [languages[-1], "en"]
    assert dict(model.batches[0]) == {0: languages[-1], 1: "en"}
    assert (found.transcript.language, found.transcript.language_probability) == ("en", sure)


def test_a_clip_s_language_is_that_of_the_most_speech() -> None:
    (found,) = transcribe(Echo(sure=0.9), [clip(0, [20, 15, 10])], 4)
    assert found.transcript is not None
    assert found.transcript.languages == (
        LanguageShare("de", 25 / 45),
        LanguageShare("en", 20 / 45),
    )
    assert found.transcript.language == "de"


def test_languages_mix_in_a_batch() -> None:
    model = Echo()
    transcribe(model, [clip(0, [9], 0, 0), clip(1, [8], 1, 1), clip(2, [7], 2, 2)], 3)
    assert model.batches == [[(0, "en"), (1, "es"), (2, "de")]]


def test_the_windows_of_a_batch_have_about_as_much_speech() -> None:
    model = Echo()
    rng = np.random.default_rng(1)
    speech = [rng.integers(1, 31, 3).tolist() for _ in range(200)]
    transcribe(model, [clip(n, seconds) for n, seconds in enumerate(speech)], 16)
    spread = np.mean([max(batch) - min(batch) for batch in model.speech])
    unsorted = np.concatenate(speech)[: 37 * 16].reshape(-1, 16)
    assert spread < 0.45 * np.mean(unsorted.max(1) - unsorted.min(1))


def test_the_telling_window_is_the_one_with_the_most_speech_wherever_it_stands() -> None:
    for speech in ([3, 20, 5], [20, 3, 5], [3, 5, 20], [20, 20, 1]):
        for size in (1, 2, 16):
            (found,) = transcribe(Echo(), [clip(0, speech, 1)], size)
            assert found.transcript is not None
            assert found.transcript.language == "es", (speech, size)


def test_clips_without_speech_and_failed_ones_never_reach_the_model() -> None:
    model = Echo()
    failed = Prepared(Clip(1, Path("1"), 1.0), error="broken")
    silent, broken = transcribe(model, [clip(0, []), failed], 4)
    assert model.batches == []
    assert silent.transcript is not None
    assert (silent.transcript.text, silent.transcript.language) == ("", None)
    assert silent.transcript.compression_ratio is None
    assert broken.transcript is None


def test_however_many_clips_there_are_only_some_are_in_memory() -> None:
    size = 4
    alive: weakref.WeakValueDictionary[int, Window] = weakref.WeakValueDictionary()
    most = 0

    def clips() -> Iterator[Prepared]:
        nonlocal most
        for ordinal in range(10_000):
            made = clip(ordinal, [5, 1 + ordinal % 30, 3])
            for window in made.windows:
                alive[id(window)] = window
            most = max(most, len(alive))
            yield made
            del made, window

    gc.disable()  # nothing may wait for it
    try:
        done = 0
        for found in Batcher(Echo(), size).transcribe(clips()):  # type: ignore[arg-type]
            done += len(found)
            del found
    finally:
        gc.enable()
    assert done == 10_000
    assert most <= 2 * BATCHES_TOGETHER * size


@pytest.mark.parametrize(
    ("second", "doubt"),
    [
        (Hypothesis("good morning to you all", -1.0, 6, 0.1), None),
        (Hypothesis("good morning to you all", -6.0, 6, 0.6), None),  # at Whisper's limits
        (Hypothesis(("you " * 60).strip(), -1.0, 61, 0.1), "repeated text"),
        (Hypothesis("good morning", -6.1, 6, 0.1), "unlikely words"),
        (Hypothesis("thank you", -1.0, 3, 0.61), "perhaps no speech"),
        (Hypothesis(("you " * 60).strip(), -99.0, 61, 0.9),
         "repeated text, unlikely words, perhaps no speech"),
        (Hypothesis("a dog a cat", -1.0, 16, 0.1, is_cut=True), "cut off"),
        (Hypothesis("", 0.0, 0, 0.9), None),  # nothing was made up
    ],
)  # fmt: skip
def test_what_is_doubtful_is_told_of_the_segment_and_of_the_clip(
    second: Hypothesis, doubt: str | None
) -> None:
    class Doubtful(Echo):
        def decode(
            self, encoded: np.ndarray, languages: Sequence[str], speech: Sequence[float]
        ) -> list[Hypothesis]:
            fine = Hypothesis("a dog", -0.5, 3, 0.1)
            return [second if int(each[0]) == 1 else fine for each in encoded]

    (found,) = transcribe(Doubtful(), [clip(0, [5, 5, 5])], 4)
    assert found.transcript is not None
    ratios = [compression_ratio(text) for text in ("a dog", second.text) if text]
    assert found.transcript.compression_ratio == max(ratios)
    assert found.transcript.doubt == doubt
    assert [each.doubt for each in found.transcript.segments] == [None, doubt, None]
