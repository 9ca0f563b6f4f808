from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace as replace_fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from demo_classifier import ADAPTER, BASE, BENIGN, POLICIES, SCAM, SETTINGS, THREAT
from msgspec.structs import replace
from on_demand import OnDemand

from earmark.ingest.selection import uniform
from earmark.policy.classifier import Classifier
from earmark.policy.classify import classify_archive
from earmark.policy.policies import PROMPT_SHA256, Policy, set_sha256
from earmark.policy.screen import screening_policy
from earmark.settings import ClassifySettings, ScreenSettings
from earmark.tables import CLASSES, MANIFEST, TRANSCRIPTS, read_provenance, read_table, write_table

if TYPE_CHECKING:
    import transformers
else:
    transformers = OnDemand("transformers")

pytestmark = pytest.mark.slow


def transcript(ordinal: int, text: str | None, status: str = "ok") -> dict[str, object]:
    return {"archive": "a.tar", "ordinal": ordinal, "text": text, "status": status}


def member(row: dict[str, Any]) -> dict[str, object]:
    """The manifest's row of a transcript; each clip has a content of its own."""
    return {
        "archive": "a.tar",
        "ordinal": row["ordinal"],
        "member": "a.mp3",
        "source_sha256": sha256(row["ordinal"]),
        "source_bytes": 1,
        "status": "ok",
        "selected": True,
        "inclusion_probability": 1.0,
    }


def sha256(ordinal: int) -> str:
    return hashlib.sha256(f"{ordinal}".encode()).hexdigest()


@pytest.fixture
def classify(tmp_path: Path) -> Callable[..., tuple[list[dict[str, Any]], dict[str, str]]]:
    def run(
        rows: list[dict[str, object]],
        settings: ClassifySettings = SETTINGS,
        provenance: dict[str, object] | None = None,
        policies: Sequence[Policy] = POLICIES,
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        source, output = tmp_path / "transcripts.parquet", tmp_path / "classes.parquet"
        # The same rows are the same file, whenever it is written.
        write_table(source, TRANSCRIPTS, rows, {"made_at": "2026-11-02", **(provenance or {})})
        manifest = tmp_path / "manifest.parquet"
        write_table(manifest, MANIFEST, [member(row) for row in rows], {})
        parts = tmp_path / "parts"
        classify_archive(source, output, policies, settings, "2026-11", parts, manifest)
        shutil.rmtree(tmp_path / "parts", ignore_errors=True)  # as loading does
        return read_table(output, CLASSES).to_pylist(), read_provenance(output)

    return run


def test_an_archive_gets_one_row_per_clip_and_category(classify: Any) -> None:
    rows, _ = classify([transcript(3, SCAM), transcript(5, THREAT)])
    assert [(row["ordinal"], row["category"], row["flagged"]) for row in rows] == [
        (3, "harassment", False),
        (3, "scams", True),
        (3, "violent-threats", False),
        (5, "harassment", False),
        (5, "scams", False),
        (5, "violent-threats", True),
    ]
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["answer"] for row in rows} == {"logits"}
    assert {row["archive"] for row in rows} == {"a.tar"}


def test_a_failed_transcript_gets_no_row(classify: Any) -> None:
    rows, _ = classify([transcript(0, None, "failed"), transcript(1, BENIGN)])
    assert {row["ordinal"] for row in rows} == {1}


def test_without_speech_nothing_is_flagged_and_no_model_is_needed(classify: Any) -> None:
    nowhere = replace(SETTINGS, model="/nowhere", adapter="/nowhere")
    rows, _ = classify([transcript(0, ""), transcript(1, " \n"), transcript(2, None)], nowhere)
    assert len(rows) == 3 * len(POLICIES)
    assert {(row["flagged"], row["score"], row["status"]) for row in rows} == {(False, 0.0, "ok")}


def test_an_archive_without_clips_makes_an_empty_file(classify: Any) -> None:
    rows, provenance = classify([], replace(SETTINGS, model="/nowhere"))
    assert rows == []
    assert provenance["policy"] == "2026-11"


def test_thresholds_decide_what_is_flagged_but_not_the_scores(classify: Any) -> None:
    strict = replace(SETTINGS, threshold=1.1, thresholds={"scams": 0.0})
    before, _ = classify([transcript(0, THREAT)])
    after, _ = classify([transcript(0, THREAT)], strict)
    assert [row["flagged"] for row in before] == [False, False, True]
    assert [row["flagged"] for row in after] == [False, True, False]
    assert [row["threshold"] for row in after] == [1.1, 0.0, 1.1]
    assert [row["score"] for row in before] == pytest.approx([row["score"] for row in after])


def deaf_to_a_word(folder: Path) -> ClassifySettings:
    """A model with one word's embedding damaged: "é"."""
    damaged: Any = transformers.AutoModelForCausalLM.from_pretrained(BASE)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(BASE)
    (token,) = tokenizer("é").input_ids
    damaged.get_input_embeddings().weight.data[token] = float("nan")
    # The output head shares the weights, so the damaged word's own logit is NaN too.
    damaged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return replace(SETTINGS, model=str(folder), adapter_fits=True)


def test_a_clip_without_a_finite_answer_fails_alone(tmp_path: Path, classify: Any) -> None:
    broken = deaf_to_a_word(tmp_path / "damaged")
    rows, _ = classify([transcript(0, BENIGN), transcript(1, "é"), transcript(2, SCAM)], broken)
    failed = [row for row in rows if row["status"] == "failed"]
    assert {row["ordinal"] for row in failed} == {1}
    assert {row["error"] for row in failed} == {"the model's answer is not a number"}
    assert {row["score"] for row in failed} == {row["flagged"] for row in failed} == {None}
    sound, _ = classify([transcript(0, BENIGN), transcript(2, SCAM)])
    assert [row["score"] for row in rows if row["status"] == "ok"] == pytest.approx(
        [row["score"] for row in sound], abs=1e-4
    )


def test_the_file_says_what_made_it(classify: Any) -> None:
    _, provenance = classify(
        [transcript(0, SCAM), transcript(1, "")],
        provenance={"archive_status": "partial", "archive_error": "cut off", "model": "whisper"},
    )
    assert float(provenance.pop("seconds")) > 0
    assert datetime.fromisoformat(provenance.pop("made_at")).year > 2025
    assert json.loads(provenance.pop("policy_sha256")) == {
        policy.category: policy.sha256 for policy in POLICIES
    }
    checked = json.loads(provenance.pop("self_check"))
    assert checked.keys() == {policy.category for policy in POLICIES}
    assert all(each["flagged"] > 0.9 > 0.1 > each["not_flagged"] for each in checked.values())
    for package in ("version", "transformers", "peft"):
        assert provenance.pop(package)[0].isdigit()
    assert provenance == {
        "model": str(BASE),
        "model_revision": "",
        "adapter": str(ADAPTER),
        "adapter_revision": "",
        "quantization": "",
        "llm_int8_threshold": "",
        "dtype": "float32",
        "max_tokens": "8192",
        "answer": "logits",
        "max_new_tokens": "",
        "prompt_sha256": PROMPT_SHA256,
        "policy": "2026-11",
        "policy_set_sha256": set_sha256(POLICIES),
        "screen": "",
        "unscreened": "",
        "archive_status": "partial",
        "archive_error": "cut off",
    }


#: Classifies "transcripts" of a folder, one clip at a time.
JOB = """
import sys
from msgspec.structs import replace
from datetime import datetime
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from demo_classifier import POLICIES, SETTINGS
from earmark.policy.classify import classify_archive
folder, settings = Path(sys.argv[1]), replace(SETTINGS, checkpoint_seconds=0, batch_size=1)
output, parts = folder / "classes.parquet", folder / "parts"
classify_archive(folder / "transcripts.parquet", output, POLICIES, settings, "2026-11", parts)
"""


def test_a_job_killed_in_its_midst_yields_the_same_rows_when_tried_again(
    tmp_path: Path, classify: Any, caplog: pytest.LogCaptureFixture
) -> None:
    clips = [transcript(n, f"{SCAM} number {n}. {BENIGN}") for n in range(40)]
    undisturbed, _ = classify(clips)
    (tmp_path / "classes.parquet").unlink()
    command = [sys.executable, "-c", JOB, str(tmp_path), str(Path(__file__).parent)]
    with subprocess.Popen(command) as job:
        deadline = time.monotonic() + 120
        while len(parts := list(tmp_path.glob("parts/*/[0-9]*.parquet"))) < 50:
            assert job.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
    assert not (tmp_path / "classes.parquet").exists()
    caplog.set_level("INFO")
    rows, _ = classify(clips)
    for row, expected in zip(rows, undisturbed, strict=True):
        assert row == expected | {"score": pytest.approx(expected["score"], abs=1e-4)}
    # What was in a part before the kill was not asked again.
    said = [line for line in caplog.messages if line.startswith("classify ")][-1]
    assert f"{3 * 40} of {3 * 40} answers" in said
    known = re.search(r"(\d+) of 120 answers were done before", caplog.text)
    assert known is not None
    assert int(known[1]) >= len(parts)


def test_a_job_that_died_after_its_last_row_asks_nothing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake throws its output away."""
    source, output = tmp_path / "transcripts", tmp_path / "classes"
    write_table(source, TRANSCRIPTS, [transcript(0, SCAM), transcript(1, "")], {})
    arguments = (source, output, POLICIES, SETTINGS, "2026-11", tmp_path / "parts")
    classify_archive(*arguments)
    rows = read_table(output, CLASSES)
    output.unlink()
    monkeypatch.setattr("earmark.policy.classify.Classifier", None)  # nobody may load a model
    classify_archive(*arguments)
    assert read_table(output, CLASSES) == rows


#: The demo's model never learned to screen: what its screen lets through is arbitrary but fixed.
UNCHECKED = [replace_fields(policy, examples=None) for policy in POLICIES]
CLIPS = [transcript(n, f"{text} number {n}") for n, text in enumerate([SCAM, THREAT, BENIGN] * 10)]


@pytest.fixture(scope="module")
def screen_scores() -> dict[int, float]:
    """The screening score of each clip, and none that others equal."""
    answers = Classifier(SETTINGS).classify(
        screening_policy(UNCHECKED), [str(clip["text"]) for clip in CLIPS]
    )
    return {index: answer.score or 0.0 for index, answer in answers}


def behind_screen(scores: dict[int, float], passing: int, fraction: float) -> ClassifySettings:
    """A screen that lets so many clips through."""
    ranked = sorted(scores.values(), reverse=True)
    threshold = (ranked[passing - 1] + ranked[passing]) / 2
    screen = ScreenSettings(threshold=threshold, audit_fraction=fraction)
    return replace(SETTINGS, screen=screen)


def test_only_what_passes_the_screen_and_a_drawn_part_of_the_rest_meets_the_policies(
    classify: Any, screen_scores: dict[int, float]
) -> None:
    settings = behind_screen(screen_scores, passing=6, fraction=0.3)
    assert settings.screen is not None
    rows, provenance = classify(CLIPS, settings, policies=UNCHECKED)
    plain, _ = classify(CLIPS, policies=UNCHECKED)
    assert len(rows) == len(plain) == len(CLIPS) * len(POLICIES)
    asked = {True: 0, False: 0}
    for row, unscreened in zip(rows, plain, strict=True):
        ordinal, score = row["ordinal"], row["screen_score"]
        assert (ordinal, row["category"]) == (unscreened["ordinal"], unscreened["category"])
        assert score == pytest.approx(screen_scores[ordinal], abs=1e-4)
        passes = score >= settings.screen.threshold
        assert row["asked_probability"] == (1.0 if passes else 0.3)
        if passes or uniform(sha256(ordinal), "screen audit") < 0.3:
            assert (row["status"], row["flagged"]) == ("ok", unscreened["flagged"])
            assert row["score"] == pytest.approx(unscreened["score"], abs=1e-4)
            asked[passes] += 1
        else:
            assert (row["status"], row["flagged"], row["score"]) == ("unasked", None, None)
    assert asked[True] == 6 * len(POLICIES)
    assert 0 < asked[False] < 24 * len(POLICIES)
    told = json.loads(provenance["screen"])
    assert told["sha256"] == screening_policy(UNCHECKED).sha256
    assert (told["threshold"], told["audit_fraction"]) == (settings.screen.threshold, 0.3)
    assert provenance["unscreened"] == "0"


def test_without_a_screen_nothing_is_unasked(classify: Any) -> None:
    rows, provenance = classify(CLIPS[:3])
    assert {(row["status"], row["screen_score"], row["asked_probability"]) for row in rows} == {
        ("ok", None, 1.0)
    }
    assert provenance["screen"] == ""


@pytest.mark.parametrize(("texts", "warned"), [(["é", "é é"], True), ([SCAM, "é"], False)])
def test_a_screen_without_answers_is_told_of(
    tmp_path: Path, classify: Any, caplog: pytest.LogCaptureFixture, texts: list[str], warned: bool
) -> None:
    settings = replace(deaf_to_a_word(tmp_path / "damaged"), screen=ScreenSettings(threshold=0.0))
    clips = [transcript(n, text) for n, text in enumerate([*texts, ""])]
    rows, provenance = classify(clips, settings, policies=UNCHECKED)
    unscreened = sum("é" in text for text in texts)
    assert provenance["unscreened"] == str(unscreened)
    assert "unasked" not in {row["status"] for row in rows}
    warning = (
        "the screen has no answer for 2 of 2 clips of classes, which went through all policies: "
        "the model's answer is not a number"
    )
    assert (warning in caplog.messages) == warned
    assert ("the screen has no answer" in caplog.text) == warned


def test_a_clip_without_speech_is_not_screened(classify: Any) -> None:
    settings = replace(SETTINGS, model="/nowhere", screen=ScreenSettings())
    rows, _ = classify([transcript(0, "")], settings)
    assert {(row["status"], row["score"], row["screen_score"]) for row in rows} == {
        ("ok", 0.0, None)
    }


def test_a_job_that_died_behind_a_screen_asks_nothing_again(
    tmp_path: Path, screen_scores: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = behind_screen(screen_scores, passing=6, fraction=0.3)
    source, manifest, output = tmp_path / "t", tmp_path / "m", tmp_path / "classes"
    write_table(source, TRANSCRIPTS, CLIPS, {})
    write_table(manifest, MANIFEST, [member(clip) for clip in CLIPS], {})
    asked: list[str] = []
    classify = Classifier.classify

    def killed(self: Classifier, policy: Policy, contents: Sequence[str]) -> Any:
        asked.extend([policy.category] * len(contents))
        for number, answer in enumerate(classify(self, policy, contents)):
            if policy.category == "scams" and number == 2:
                raise KeyboardInterrupt
            yield answer

    arguments = (source, output, UNCHECKED, replace(settings, checkpoint_seconds=0), "2026-11")
    with monkeypatch.context() as patch:
        patch.setattr(Classifier, "classify", killed)
        with pytest.raises(KeyboardInterrupt):
            classify_archive(*arguments, tmp_path / "parts", manifest)
        assert asked.count("any_policy") == len(CLIPS)
        there = asked.count("harassment")
        asked.clear()
        with pytest.raises(KeyboardInterrupt):
            classify_archive(*arguments, tmp_path / "parts", manifest)
        assert asked.count("any_policy") == asked.count("harassment") == 0
        assert asked.count("scams") == there - 2
    classify_archive(*arguments, tmp_path / "parts", manifest)
    rows = read_table(output, CLASSES)
    assert rows.num_rows == len(CLIPS) * len(POLICIES)
    classify_archive(*arguments, tmp_path / "undisturbed", manifest)
    again = read_table(output, CLASSES)
    assert again.drop_columns(["score", "screen_score"]) == rows.drop_columns(
        ["score", "screen_score"]
    )
