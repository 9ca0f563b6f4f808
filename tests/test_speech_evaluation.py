"""What is heard against what is said: error rates by hand, and of the demo's clips."""

import json
from pathlib import Path

import pytest
import yaml
from demo_clips import MEMBERS, QUICK, extract_clips, spoken
from hypothesis import given, settings
from hypothesis import strategies as st

from earmark import cli, configuration
from earmark.evaluation.gold import Gold, Reference
from earmark.evaluation.results import SpeechEvaluation, kept
from earmark.evaluation.speech import Heard, errors_of, evaluate, name_of, worst
from earmark.settings import Settings
from earmark.volume import Volume

pytestmark = pytest.mark.slow


def heard(*pairs: tuple[str, str], language: str | None = "en") -> list[Heard]:
    return [
        Heard(number, Reference(text=said, audio="a.wav"), text, language)
        for number, (said, text) in enumerate(pairs, start=1)
    ]


def test_errors_are_counted_without_capitals_and_punctuation() -> None:
    errors = errors_of("Send me, please, your PASSWORD!", "send us your your password")
    # "me" became "us", and "please" another "your".
    assert (errors.words, errors.wrong_words) == (5, 2)
    errors = errors_of("¿Mañana?", "manana")
    assert (errors.characters, errors.wrong_characters) == (6, 1)


def test_words_where_nobody_speaks_are_errors() -> None:
    errors = errors_of("", "thank you")
    assert (errors.words, errors.wrong_words) == (0, 2)
    assert errors_of("", "").wrong_words == 0


@given(st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_two_texts_can_be_compared(said: str, text: str) -> None:
    errors = errors_of(said, text)
    assert 0 <= errors.wrong_words <= errors.words + len(text)
    assert errors_of(said, said).wrong_characters == 0


def test_rates_are_of_all_words_and_by_language() -> None:
    spoken = heard(("a b c d", "a b c x"), ("a", "")) + heard(("x y", "x y"), language="es")
    gold = Gold[Reference](Path("references.jsonl"), "0" * 64, [])
    (of_all, english, spanish) = evaluate(Settings(), gold, spoken).errors
    assert (of_all.clips, of_all.words) == (3, 7)
    assert of_all.wer.value == pytest.approx(2 / 7)
    assert english.language == "en"
    assert english.wer.value == pytest.approx(2 / 5)
    assert (spanish.language, spanish.wer.value) == ("es", 0)
    assert of_all.wer.low is not None


def test_the_clips_with_the_most_wrong_words_come_first() -> None:
    told = worst(heard(("a", "a"), ("b c", "b d"), ("e f", "")), 5)
    assert [(row["row"], row["wrong words"], row["heard"]) for row in told] == [
        (3, 2, ""),
        (2, 1, "b d"),
    ]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A configuration of the demo's speech model, beside the demo's clips."""
    (tmp_path / "volume").mkdir()
    asr = {
        key: getattr(QUICK, key)
        for key in ("name", "model", "device", "compute_type", "batch_size", "vad", "threads")
    }
    config = {"volume": {"root": str(tmp_path / "volume")}, "asr": asr}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    extract_clips(tmp_path)
    return tmp_path


def run(place: Path, *rows: dict, options: tuple[str, ...] = ("--json",)) -> int:
    path = place / "references.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return cli.main(
        ["evaluate", "--configfile", str(place / "config.yaml"), "--speech", str(path), *options]
    )


def test_audio_is_heard_and_held_against_references(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = [spoken("en"), MEMBERS[0]]
    rows = [{"audio": str(each["ordinal"]), "text": each["text"]} for each in said]
    assert run(place, *rows, {"audio": "0", "text": "never said \x1b[31m", "id": "wrong"}) == 0
    found = json.loads(capsys.readouterr().out)
    (worst_clip,) = [each for each in found["worst"] if each["id"] == "wrong"]
    assert worst_clip["heard"].strip(" .").lower() == MEMBERS[0]["text"]
    assert found["errors"][0]["words"] == sum(len(each["text"].split()) for each in said) + 3
    settings = configuration.read(place / "config.yaml")
    (result,) = kept(Volume(place / "volume"), name_of(settings), SpeechEvaluation)
    assert result.errors[0].wer.value == found["errors"][0]["wer"]["value"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere.wav", "row 1: there is no file"),
        ("config.yaml", "config.yaml can't be decoded"),
    ],
)
def test_audio_that_can_t_be_heard_is_told_by_its_row(
    place: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    assert run(place, {"audio": name, "text": "hello"}) == 2
    assert said in capsys.readouterr().err


def test_writing_the_same_otherwise_is_no_error():
    assert errors_of("Café—don’t wait, नमस्ते!", "cafe\u0301 dont WAIT नमस्ते").wrong_words == 0
    assert errors_of("bank account", "bank—account").wrong_words == 0
    assert errors_of("bank account", "bankaccount").wrong_words == 2
