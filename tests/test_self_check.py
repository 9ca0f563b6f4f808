"""A classifier that judges its policies' own examples wrongly classifies nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace as replace_fields
from pathlib import Path

import pytest
from demo_classifier import ADAPTER, BENIGN, POLICIES, SETTINGS
from msgspec.structs import replace
from weights import Weights, change_weights

from earmark import REPOSITORY, configuration
from earmark.driver import attempts
from earmark.driver.cycle import _snapshot
from earmark.driver.stages import stage
from earmark.policy.classify import classify_archive
from earmark.policy.policies import Examples, load_policies
from earmark.settings import ClassifySettings, ScreenSettings, Settings
from earmark.tables import MANIFEST, TRANSCRIPTS, read_provenance, write_table
from earmark.volume import Volume

pytestmark = pytest.mark.slow

NAME = "a.tar"


def classify(volume: Volume, settings: ClassifySettings, policies=POLICIES) -> Path:
    """Classify one clip, as the workflow's script does."""
    transcripts = volume.root / "transcripts.parquet"
    row = {"archive": NAME, "ordinal": 0, "text": BENIGN, "status": "ok"}
    write_table(transcripts, TRANSCRIPTS, [row], {})
    manifest = volume.root / "manifest.parquet"
    member = {"archive": NAME, "ordinal": 0, "member": "0.mp3", "source_sha256": "0" * 64}
    member |= {"source_bytes": 1, "status": "ok", "selected": True, "inclusion_probability": 1.0}
    write_table(manifest, MANIFEST, [member], {})
    output = volume.root / "classes.parquet"
    with stage("classify_transcripts", NAME, volume, volume.log("classify_transcripts", NAME)):
        checkpoint = volume.checkpoint(NAME, "classify_transcripts")
        classify_archive(transcripts, output, policies, settings, "demo", checkpoint, manifest)
    return output


def refusal(volume: Volume, settings: ClassifySettings, policies=POLICIES) -> str:
    """Why a job stops; the archive is not blamed."""
    with pytest.raises(SystemExit) as ended:
        classify(volume, settings, policies)
    assert ended.value.code == 2
    (failure,) = attempts.failures(volume, NAME)
    assert not failure.counts
    assert "Traceback" not in volume.log("classify_transcripts", NAME).read_text()
    return failure.reason or ""


def scaled(factor: float):
    return lambda weights: {
        key: weight * factor if "lora_B" in key else weight for key, weight in weights.items()
    }


def of_other_layers(weights: Weights) -> Weights:
    """Each layer's weights in another layer: all are used, and none is missing."""
    last = max(int(key.split(".layers.")[1].split(".")[0]) for key in weights)
    return {
        key.replace(f".layers.{n}.", f".layers.{last - n}."): weight
        for key, weight in weights.items()
        for n in [int(key.split(".layers.")[1].split(".")[0])]
    }


@pytest.mark.parametrize(
    "change", [scaled(0.0), scaled(-1.0), of_other_layers], ids=["zero", "negated", "swapped"]
)
@pytest.mark.parametrize("quantization", [None, "8bit"])
def test_an_adapter_that_is_applied_wrongly_stops_the_job_and_no_archive_is_to_blame(
    tmp_path: Path, change, quantization: str | None
) -> None:
    adapter = tmp_path / "cope-demo"
    shutil.copytree(ADAPTER, adapter)
    change_weights(adapter / "adapter_model.safetensors", change)
    settings = replace(SETTINGS, adapter=str(adapter), quantization=quantization)
    reason = refusal(Volume(tmp_path / "volume"), settings)
    assert "the classifier fails its self-check: by policy " in reason
    category = reason.split("by policy ")[1].split(",")[0]
    (policy,) = [each for each in POLICIES if each.category == category]
    examples = policy.examples
    assert examples is not None
    assert repr(examples.flagged) in reason or repr(examples.not_flagged) in reason
    assert "scores 0." in reason
    assert "instead of " in reason
    assert str(adapter) in reason


def test_a_base_model_without_its_adapter_stops_the_job(tmp_path: Path) -> None:
    reason = refusal(Volume(tmp_path), replace(SETTINGS, adapter=None))
    assert "fails its self-check" in reason


def test_an_example_on_the_wrong_side_is_told_with_its_policy_and_score(tmp_path: Path) -> None:
    wrong = Examples("the park is quiet", "the park is quiet")
    policies = [POLICIES[0], replace_fields(POLICIES[1], examples=wrong)]
    reason = refusal(Volume(tmp_path), SETTINGS, policies)
    assert "by policy scams, the example of what is flagged, 'the park is quiet', scores 0.0" in (
        reason
    )
    assert "instead of 0.5 or more" in reason


def test_a_screen_that_misses_a_plain_case_stops_the_job(tmp_path: Path) -> None:
    strict = replace(SETTINGS, screen=ScreenSettings(threshold=1.0))
    reason = refusal(Volume(tmp_path), strict)
    assert "the screen fails its self-check: the example of what harassment flags, 'you are a " in (
        reason
    )
    assert "instead of 1 or more" in reason
    assert "lower classify.screen.threshold" in reason


def test_a_screen_that_lets_all_plain_cases_through_is_recorded(tmp_path: Path) -> None:
    lenient = replace(SETTINGS, screen=ScreenSettings(threshold=0.0))
    checked = json.loads(read_provenance(classify(Volume(tmp_path), lenient))["self_check"])
    assert checked["any_policy"].keys() == {"harassment", "scams", "violent-threats"}


def test_a_threshold_is_no_matter_of_the_self_check(tmp_path: Path) -> None:
    classify(Volume(tmp_path), replace(SETTINGS, threshold=1.0, thresholds={"scams": 0.0}))


def test_policies_without_examples_are_said_not_to_be_checked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    own = [replace_fields(policy, examples=None) for policy in POLICIES[:2]]
    output = classify(Volume(tmp_path), SETTINGS, [*own, POLICIES[2]])
    checked = json.loads(read_provenance(output)["self_check"])
    assert checked["harassment"] is checked["scams"] is None
    assert checked["violent-threats"]["flagged"] > 0.9
    assert "without examples in examples.yaml (docs/policies.md): harassment, scams" in (
        capfd.readouterr().err
    )


def test_a_cycle_takes_the_examples_along_with_the_policies(tmp_path: Path) -> None:
    snapshot = _snapshot(Settings(), tmp_path)
    copied = configuration.read(snapshot).classify.policies
    assert load_policies(Path(copied)) == load_policies(REPOSITORY / "config/policies")
