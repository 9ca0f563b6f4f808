from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from demo_classifier import ADAPTER, BASE, BENIGN, POLICIES, SCAM, SETTINGS, THREAT
from msgspec.structs import replace
from on_demand import OnDemand

from earmark.policy.classify import classify_archive
from earmark.policy.policies import PROMPT_SHA256, set_sha256
from earmark.settings import ClassifySettings
from earmark.tables import CLASSES, TRANSCRIPTS, read_provenance, read_table, write_table

if TYPE_CHECKING:
    import transformers
else:
    transformers = OnDemand("transformers")

pytestmark = pytest.mark.slow


def transcript(ordinal: int, text: str | None, status: str = "ok") -> dict[str, object]:
    return {"archive": "a.tar", "ordinal": ordinal, "text": text, "status": status}


@pytest.fixture
def classify(tmp_path: Path) -> Callable[..., tuple[list[dict[str, Any]], dict[str, str]]]:
    def run(
        rows: list[dict[str, object]],
        settings: ClassifySettings = SETTINGS,
        provenance: dict[str, object] | None = None,
    ) -> tuple[list[dict[str, Any]], dict[str, str]]:
        source, output = tmp_path / "transcripts.parquet", tmp_path / "classes.parquet"
        # The same rows are the same file, whenever it is written.
        write_table(source, TRANSCRIPTS, rows, {"made_at": "2026-11-02", **(provenance or {})})
        classify_archive(source, output, POLICIES, settings, "2026-11", tmp_path / "parts")
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


def test_a_clip_without_a_finite_answer_fails_alone(tmp_path: Path, classify: Any) -> None:
    """One word's embedding is damaged; only the clip that says it suffers."""
    damaged: Any = transformers.AutoModelForCausalLM.from_pretrained(BASE)
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(BASE)
    (token,) = tokenizer("é").input_ids
    damaged.get_input_embeddings().weight.data[token] = float("nan")
    # The output head shares the weights, so the damaged word's own logit is NaN too.
    damaged.save_pretrained(tmp_path / "damaged")
    tokenizer.save_pretrained(tmp_path / "damaged")
    broken = replace(SETTINGS, model=str(tmp_path / "damaged"), adapter_fits=True)
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
        "dtype": "float32",
        "max_tokens": "8192",
        "answer": "logits",
        "max_new_tokens": "",
        "prompt_sha256": PROMPT_SHA256,
        "policy": "2026-11",
        "policy_set_sha256": set_sha256(POLICIES),
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
