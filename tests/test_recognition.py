"""The demo's Whisper model on batches of windows in several languages."""

from pathlib import Path

import numpy as np
import pytest
from demo_clips import MEMBERS, QUICK, extract_clips, spoken
from msgspec.structs import replace

from earmark.errors import EarmarkError
from earmark.speech.decoding import DECODING
from earmark.speech.languages import best
from earmark.speech.preparation import Clip, Preparation, Window
from earmark.speech.recognition import Recogniser

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def recogniser() -> Recogniser:
    return Recogniser(QUICK)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Window]:
    """The only window of each spoken clip, by ordinal."""
    files = extract_clips(tmp_path_factory.mktemp("clips"))
    clips = [Clip(m["ordinal"], files[m["ordinal"]], 10.0) for m in MEMBERS if m["text"]]
    with Preparation("silero", "cpu", processes=0) as alone:
        return {each.clip.ordinal: each.windows[0] for each in alone.prepare(clips, 80, 1.0)}


def test_each_window_of_a_batch_is_heard_in_its_own_language_as_if_it_was_alone(
    recogniser: Recogniser, windows: dict[int, Window]
) -> None:
    together = recogniser.encode([window.features for window in windows.values()])
    languages = [best(found) for found in recogniser.detect_languages(together)]
    expected = {m["ordinal"]: m["language"] for m in MEMBERS}
    assert [language.code for language in languages] == [expected[n] for n in windows]
    assert {"en", "es"} == {language.code for language in languages}
    assert all(0.5 < language.probability <= 1 for language in languages)
    codes = [language.code for language in languages]
    speech = [window.speech_seconds for window in windows.values()]
    for window, code, heard in zip(
        windows.values(), codes, recogniser.decode(together, codes, speech), strict=True
    ):
        (alone,) = recogniser.decode(
            recogniser.encode([window.features]), [code], [window.speech_seconds]
        )
        assert heard.text == alone.text
        assert heard.tokens == alone.tokens
        assert heard.logprob == pytest.approx(alone.logprob, abs=1e-3)
        assert 0 <= heard.no_speech_probability <= 1


def test_another_languages_prompt_gives_another_answer(
    recogniser: Recogniser, windows: dict[int, Window]
) -> None:
    features = [windows[spoken("es")["ordinal"]].features] * 2
    right, wrong = recogniser.decode(recogniser.encode(features), ["es", "en"], [30.0, 30.0])
    assert right.logprob > wrong.logprob


def test_a_given_language_is_not_detected(windows: dict[int, Window]) -> None:
    given = Recogniser(replace(QUICK, language="es"))
    encoded = given.encode([window.features for window in windows.values()])
    assert given.detect_languages(encoded) == [{"es": 1.0}] * len(windows)
    assert not given.detects_languages


def test_the_words_are_spoken(recogniser: Recogniser, windows: dict[int, Window]) -> None:
    for language in ("en", "es"):
        member = spoken(language)
        encoded = recogniser.encode([windows[member["ordinal"]].features])
        (heard,) = recogniser.decode(encoded, [language], [30.0])
        words = set(member["text"].split())
        assert len(words & set(heard.text.split())) >= 0.8 * len(words)
        assert np.exp(heard.logprob / heard.tokens) > 0.5
        assert not heard.is_cut


def test_words_without_end_are_cut_where_more_than_the_speech_can_have(
    windows: dict[int, Window], monkeypatch: pytest.MonkeyPatch
) -> None:
    greedy = Recogniser(replace(QUICK, beam_size=1))
    end = greedy._model.hf_tokenizer.token_to_id("<|endoftext|>")
    monkeypatch.setitem(DECODING, "suppress_tokens", [-1, end])
    features = [windows[spoken("en")["ordinal"]].features] * 3
    encoded, seconds = greedy.encode(features), [0.2, 1.0, 30.0]
    most = [26, 66, 224]
    endless = greedy.decode(encoded, ["en"] * 3, seconds)
    assert [each.tokens for each in endless] == most
    assert all(each.is_cut for each in endless)
    assert endless[2].text.startswith(endless[1].text)
    assert endless[1].text.startswith(endless[0].text)
    (alone,) = greedy.decode(greedy.encode(features[:1]), ["en"], seconds[:1])
    assert (alone.text, alone.tokens) == (endless[0].text, endless[0].tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "/nowhere"}, r"asr\.model names the folder /nowhere"),
        ({"model": "no-such-model"}, "'no-such-model', which is neither a Whisper model"),
        ({"compute_type": "int4"}, r"cannot be loaded .*asr\.compute_type"),
        ({"language": "xx"}, r"cannot be loaded .*'xx' is not a valid language code.*asr\.lang"),
        ({"device": "cuda"}, r"asr\.device is 'cuda', but this machine has no usable CUDA"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_explained(
    change: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(EarmarkError, match=message):
        Recogniser(replace(QUICK, **change))
