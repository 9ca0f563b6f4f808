"""A name in the configuration never stands for two different settings."""

import json
from pathlib import Path
from typing import Any

import pytest

from earmark.configuration import resolve
from earmark.errors import EarmarkError
from earmark.names import Name, as_bound, asr_name, policy_set_name
from earmark.speech.decoding import DECODING_FACTS
from earmark.volume import Volume

FACTS = {"model": "large-v2", "language": None, "scams.md": "# Scams"}


def name(record: Path, facts: dict) -> Name:
    return Name("asr.name", "first", facts, record)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "state/asr/first.json"
    name(path, FACTS).bind()
    return path


def test_checking_a_name_alone_records_nothing(tmp_path: Path) -> None:
    name(tmp_path / "new.json", FACTS).check()
    assert not (tmp_path / "new.json").exists()


def test_the_first_use_of_a_name_records_what_it_stands_for(record: Path) -> None:
    assert json.loads(record.read_text(encoding="utf-8")) == FACTS


def test_the_same_settings_may_use_their_name_again(record: Path) -> None:
    name(record, dict(reversed(FACTS.items()))).bind()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": "large-v3"}, "model"),
        ({"language": "en", "model": "x"}, "language, model"),
        ({"hate.md": "# Hate"}, r"hate\.md"),
    ],
)
def test_other_settings_under_an_old_name_are_refused(
    record: Path, change: dict, named: str
) -> None:
    before = record.read_bytes()
    with pytest.raises(
        EarmarkError, match=rf"asr\.name 'first' was used before with other settings: {named} "
    ):
        name(record, FACTS | change).bind()
    assert record.read_bytes() == before


def test_settings_that_lack_something_are_refused_too(record: Path) -> None:
    with pytest.raises(EarmarkError, match=r"scams\.md .*choose a new asr\.name"):
        name(record, {"model": "large-v2", "language": None}).bind()


def test_a_new_name_of_transcripts_alone_is_refused_for_what_a_policy_set_is_of(
    tmp_path: Path,
) -> None:
    record = tmp_path / "a.json"
    policy = Name("classify.policy", "a", {"asr.name": "old", "model": "m"}, record)
    policy.bind()
    with pytest.raises(
        EarmarkError, match=r"asr\.name 'old' .*choose a new classify\.policy as well"
    ):
        Name("classify.policy", "a", {"asr.name": "new", "model": "m"}, record).check()
    with pytest.raises(EarmarkError, match=r"other settings: asr\.name, model "):
        Name("classify.policy", "a", {"asr.name": "new", "model": "n"}, record).check()


def test_a_pin_is_part_of_what_a_name_stands_for_and_none_changes_nothing(tmp_path: Path) -> None:
    settings, volume = resolve({}), Volume(tmp_path)
    known = asr_name(settings, volume, DECODING_FACTS)
    known.bind()
    old = {fact: value for fact, value in known.facts.items() if fact != "revision"}
    known.record.write_text(json.dumps(old))  # from before there were pins
    asr_name(settings, volume, DECODING_FACTS).check()
    pinned = resolve({"asr": {"revision": "c" * 40}})
    with pytest.raises(EarmarkError, match=r"other settings: revision "):
        asr_name(pinned, volume, DECODING_FACTS).check()


@pytest.mark.parametrize("content", ["", "{", "3", "[1]"])
def test_a_damaged_record_is_refused(record: Path, content: str) -> None:
    record.write_text(content)
    with pytest.raises(EarmarkError, match=r"first\.json.* is damaged"):
        name(record, FACTS).bind()


def test_other_decoding_options_want_another_name(tmp_path: Path) -> None:
    config, volume = resolve({}), Volume(tmp_path)
    asr_name(config, volume, DECODING_FACTS).bind()
    asr_name(config, volume, DECODING_FACTS).check()
    with pytest.raises(EarmarkError, match="other settings: decoding "):
        asr_name(config, volume, DECODING_FACTS | {"patience": 2}).check()


def policies(
    volume: Volume, prompt: str = "a" * 64, texts: dict | None = None, **classify: object
) -> Name:
    return policy_set_name(
        resolve({"classify": classify}), volume, texts or {"hate": "", "scams": ""}, prompt
    )


TEXTS = {"any_policy": "any label", "hate": "", "scams": ""}
SCREENED: dict[str, Any] = {"screen": {"threshold": 0.2}, "texts": TEXTS}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": "b" * 64}, "prompt_sha256"),
        ({"threshold": 0.7}, "thresholds"),
        ({"thresholds": {"scams": 0.7}}, "thresholds"),
        (SCREENED, "any_policy.md, thresholds"),
    ],
)
def test_another_prompt_or_threshold_wants_another_policy_set(
    tmp_path: Path, change: dict, named: str
) -> None:
    policies(Volume(tmp_path)).bind()
    with pytest.raises(EarmarkError, match=f"other settings: {named} .*new classify.policy"):
        policies(Volume(tmp_path), **change).check()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"screen": {"threshold": 0.3}}, "thresholds"),
        ({"screen": None, "texts": None}, "any_policy.md, thresholds"),
        ({"texts": TEXTS | {"any_policy": "any other"}}, "any_policy.md"),
    ],
)
def test_another_screen_wants_another_policy_set(tmp_path: Path, change: dict, named: str) -> None:
    policies(Volume(tmp_path), **SCREENED).bind()
    with pytest.raises(EarmarkError, match=f"other settings: {named} .*new classify.policy"):
        policies(Volume(tmp_path), **SCREENED | change).check()


def test_another_share_of_audits_does_not_as_each_row_has_its_probability(tmp_path: Path) -> None:
    policies(Volume(tmp_path), **SCREENED).bind()
    more = {"threshold": 0.2, "audit_fraction": 0.5}
    policies(Volume(tmp_path), **SCREENED | {"screen": more}).check()


def test_what_counts_is_the_threshold_of_each_category_however_it_is_given(tmp_path: Path) -> None:
    policies(Volume(tmp_path), threshold=1).bind()
    policies(Volume(tmp_path), thresholds={"hate": 1.0, "scams": 1.0}).check()


def test_what_a_record_from_before_does_not_tell_is_accepted_and_completed(
    tmp_path: Path,
) -> None:
    volume = Volume(tmp_path)
    new = {"decoding", "prompt_sha256", "thresholds"}
    for known in (asr_name(resolve({}), volume, DECODING_FACTS), policies(volume)):
        known.bind()
        complete = known.record.read_bytes()
        old = {fact: value for fact, value in known.facts.items() if fact not in new}
        known.record.write_text(json.dumps(old))
        known.check()
        assert json.loads(known.record.read_text()) == old
        known.bind()
        assert json.loads(known.record.read_bytes()) == json.loads(complete)
    with pytest.raises(EarmarkError, match="other settings: thresholds "):
        policies(volume, threshold=0.9).bind()


def test_the_first_quantization_of_a_policy_set_is_that_of_all_under_its_name(
    tmp_path: Path,
) -> None:
    volume = Volume(tmp_path)
    auto = resolve({"classify": {"quantization": "auto"}}).classify
    assert as_bound(auto, volume).quantization == "auto"
    policies(volume, quantization=None).bind()  # what the first job chose
    assert as_bound(auto, volume).quantization is None
    policies(volume, quantization="auto").check()
    with pytest.raises(EarmarkError, match=r"other settings: arithmetic, quantization "):
        policies(volume, quantization="8bit").check()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"llm_int8_threshold": 0}, "llm_int8_threshold"),
        ({"dtype": "float16"}, "arithmetic, dtype"),
    ],
)
def test_another_arithmetic_of_eight_bits_wants_another_policy_set(
    tmp_path: Path, change: dict, named: str
) -> None:
    policies(Volume(tmp_path), quantization="8bit").bind()
    with pytest.raises(EarmarkError, match=f"other settings: {named} .*new classify.policy"):
        policies(Volume(tmp_path), quantization="8bit", **change).check()


def test_scores_of_a_release_that_rounded_otherwise_keep_their_name_to_themselves(
    tmp_path: Path,
) -> None:
    known = policies(Volume(tmp_path), quantization="8bit")
    known.bind()
    old = {fact: value for fact, value in known.facts.items() if fact != "arithmetic"}
    known.record.write_text(json.dumps(old))
    with pytest.raises(EarmarkError, match="other settings: arithmetic "):
        known.check()
