"""What `earmark evaluate` finds, with the demo's classifier, and what it keeps of it."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from demo_classifier import ADAPTER, BASE, BENIGN, POLICIES, SCAM, THREAT
from msgspec.structs import replace

from earmark import REPOSITORY, cli, configuration
from earmark.checkpoints import Checkpoint
from earmark.driver.checks import check_inputs
from earmark.evaluation import evaluate
from earmark.evaluation.gold import Labelled
from earmark.evaluation.results import Estimate, Evaluation, kept
from earmark.evaluation.scores import classify
from earmark.evaluation.tables import told
from earmark.policy.classifier import Classification, Classifier
from earmark.settings import ClassifySettings, ScreenSettings
from earmark.volume import Volume

pytestmark = pytest.mark.slow

ESCAPE = "\x1b[31m"
#: The second is labelled wrongly, and would write to a terminal.
ROWS: list[dict[str, Any]] = [
    {"text": SCAM, "categories": ["scams"], "language": "en", "labelled_by": "ada", "weight": 4},
    {"text": f"{THREAT}{ESCAPE}", "categories": [], "language": "en", "id": "wrong", "weight": 1},
    {"text": BENIGN, "categories": [], "language": "en", "labelled_by": ["ada", "lea"]},
    {"text": "mi amigo tiene un perro muy grande", "categories": [], "language": "es"},
    {"text": " ", "categories": ["harassment"], "language": "es"},
    {"text": THREAT, "categories": [], "labelled": ["scams", "harassment"]},
]
#: No language, and not seen by any model.
UNHEARD = {"text": "the market is small today", "categories": []}


class Trial:
    """A configuration of the demo's classifier, and a gold set."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "volume"
        self.root.mkdir()
        self.policies = folder / "policies"
        shutil.copytree(REPOSITORY / "config/policies", self.policies)
        self.file = folder / "config.yaml"
        self.file.write_text(
            yaml.safe_dump(
                {
                    "volume": {"root": str(self.root)},
                    "asr": {"model": str(REPOSITORY / "demo/models/whisper-demo"), "device": "cpu"},
                    "classify": {
                        "policy": "trial", "policies": str(self.policies),
                        "categories": ["harassment", "scams", "violent-threats"],
                        "model": str(BASE), "adapter": str(ADAPTER), "device": "cpu",
                        "quantization": None, "dtype": "float32", "threads": 1,
                    },
                }
            )
        )  # fmt: skip
        self.gold = folder / "gold.jsonl"
        self.label(*ROWS)

    def label(self, *rows: dict) -> None:
        self.gold.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def run(self, *options: str) -> int:
        return cli.main(["evaluate", "--configfile", str(self.file), *options])


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    made = Trial(tmp_path_factory.mktemp("trial"))
    assert made.run(str(made.gold), "--json") == 0
    return made


@pytest.fixture
def found(trial: Trial, capsys: pytest.CaptureFixture[str]) -> dict:
    assert trial.run(str(trial.gold), "--json") == 0
    return json.loads(capsys.readouterr().out)


def of(found: dict, category: str) -> dict:
    return next(each for each in found["figures"] if each["category"] == category)


def counts(figures: dict) -> tuple[int, ...]:
    return tuple(figures[key] for key in ("hits", "false_alarms", "misses", "passed"))


def test_answers_are_held_against_labels(found):
    assert counts(of(found, "scams")) == (1, 0, 0, 5)
    assert counts(of(found, "violent-threats")) == (0, 1, 0, 4)  # one is not labelled for it
    assert counts(of(found, "harassment")) == (0, 0, 1, 5)  # without speech nothing is flagged
    assert counts(of(found, "any category")) == (1, 1, 1, 2)
    assert of(found, "scams")["recall"]["value"] == 1
    assert of(found, "violent-threats")["recall"] == {"value": None, "low": None, "high": None}
    assert found["confusions"] == [
        {"labelled": "nothing", "flagged": "violent-threats", "texts": 1}
    ]
    assert found["labelled_by"] == {"ada": 2, "lea": 1}


def test_figures_are_told_by_language(found):
    rows = {(row["category"], row["language"]): counts(row) for row in found["by_language"]}
    assert rows["scams", "en"] == (1, 0, 0, 2)
    assert rows["scams", "es"] == (0, 0, 0, 2)
    assert rows["scams", None] == (0, 0, 0, 1)
    assert ("violent-threats", None) not in rows


def test_the_worst_disagreements_come_with_their_words(found):
    (threat, silent) = sorted(found["disagreements"], key=lambda each: each["row"])
    assert (threat["id"], threat["people"], threat["category"]) == (
        "wrong", "does not apply", "violent-threats",
    )  # fmt: skip
    assert threat["score"] > 0.9
    assert threat["text"] == f"{THREAT}{ESCAPE}"
    assert (silent["row"], silent["people"], silent["score"]) == (5, "applies", 0)


def test_scores_are_those_of_the_stage(trial):
    settings = configuration.read(trial.file)
    texts = [SCAM, THREAT, BENIGN]
    answers = classify(Volume(trial.root), settings.classify, POLICIES, texts)
    classifier = Classifier(settings.classify)
    for policy in POLICIES:
        asked = [answer for _, answer in sorted(classifier.classify(policy, texts))]
        assert [each.score for each in answers[policy.category]] == pytest.approx(
            [each.score for each in asked], abs=1e-5
        )


def asked(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Categories and numbers of texts that a model was asked about."""
    return re.findall(r"(\S+: \d+) of \d+ texts", capsys.readouterr().err)


def test_what_is_known_is_not_asked_again(trial, capsys):
    assert trial.run(str(trial.gold)) == 0
    assert "come out on the right sides" not in capsys.readouterr().err  # no model was loaded


def test_an_edited_policy_alone_is_asked_again(trial, capsys, tmp_path):
    mine = tmp_path / "mine"
    shutil.copytree(trial.policies, mine)
    with (mine / "scams.md").open("a") as file:
        file.write("- Talk of prizes\n")
    before = len([*kept_files(trial)])
    assert trial.run(str(trial.gold), "--policies", str(mine)) == 0
    assert asked(capsys) == ["scams: 5"]
    assert len([*kept_files(trial)]) == before + 1  # beside the other wording's result


def test_the_scores_of_an_evaluation_that_was_cut_off_are_not_asked_again(
    trial, capsys, tmp_path, monkeypatch
):
    more = tmp_path / "more.jsonl"
    more.write_text(trial.gold.read_text() + json.dumps({"text": "a dog", "categories": []}))
    monkeypatch.setattr(Checkpoint, "add", cut_off(Checkpoint.add))
    assert trial.run(str(more)) == 130
    monkeypatch.undo()
    capsys.readouterr()
    assert trial.run(str(more)) == 0
    assert asked(capsys) == ["scams: 1", "violent-threats: 1"]


def cut_off(add):
    """Writes the first rows that it is given, and is interrupted at the next."""
    given: list[Any] = []

    def interrupted(self, rows):
        if given:
            raise KeyboardInterrupt
        given.append(rows)
        add(self, rows)
        self.write()

    return interrupted


def kept_files(trial):
    yield from sorted(trial.root.glob("state/evaluations/classify.policy/*/*.json"))


def test_a_text_that_is_new_is_asked_about_alone(trial, capsys, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text(trial.gold.read_text() + json.dumps(UNHEARD) + "\n")
    assert trial.run(str(more)) == 0
    assert asked(capsys) == ["harassment: 1", "scams: 1", "violent-threats: 1"]


def test_no_control_character_of_a_text_reaches_the_terminal(trial, capsys):
    assert trial.run(str(trial.gold)) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\\x1b[31m" in shown


def test_two_thresholds_are_compared_on_the_same_texts(trial, capsys):
    # At 0 everything is flagged: five texts that are no scams are wrong then, and were right.
    assert trial.run(str(trial.gold), "--against", "0", "--json") == 0
    compared = json.loads(capsys.readouterr().out)["compared"]
    scams = next(each for each in compared if each["category"] == "scams")
    assert (scams["only_first"], scams["only_second"]) == (0, 5)
    assert scams["p"] == pytest.approx(2 / 2**5)
    assert scams["precision"]["value"] == pytest.approx(1 - 1 / 6)
    assert scams["recall"]["value"] == 0
    assert scams["auc"] == {"value": 0, "low": None, "high": None}


def test_another_configuration_and_other_policies_can_be_compared_with(trial, capsys, tmp_path):
    other = yaml.safe_load(trial.file.read_text())
    other["classify"]["threshold"] = 0.0
    file = tmp_path / "other.yaml"
    file.write_text(yaml.safe_dump(other))
    for named in (str(file), str(trial.policies)):
        assert trial.run(str(trial.gold), "--against", named) == 0
        shown = capsys.readouterr().out
        assert f"Compared with {named}" in shown
        assert "McNemar p" in shown


def test_weights_make_figures_of_the_population(trial, capsys, tmp_path):
    weighed = tmp_path / "weighed.jsonl"
    rows = [ROWS[0], ROWS[1], {"text": THREAT, "categories": ["scams"], "weight": 1}]
    weighed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert trial.run(str(weighed), "--weighted", "--json") == 0
    assert of(json.loads(capsys.readouterr().out), "scams")["recall"]["value"] == 4 / 5
    assert trial.run(str(trial.gold), "--weighted") == 2
    assert "4 rows have no weight, the first of them 3" in capsys.readouterr().err


def test_what_is_kept_has_the_figures_and_no_words(trial, found):
    settings = configuration.read(trial.file)
    name = evaluate.name_of(settings, evaluate.policies_of(settings))
    results = kept(Volume(trial.root), name, Evaluation)
    assert found["gold_sha256"] in {each.gold_sha256 for each in results}
    for path in (trial.root / "state/evaluations").rglob("*"):
        if path.is_file():
            assert SCAM.encode() not in path.read_bytes()
    for path in kept_files(trial):
        drawn = path.with_suffix(".svg")  # of the set's own texts
        assert drawn.exists() is not json.loads(path.read_text())["weighted"]
        assert not drawn.exists() or drawn.read_text().startswith("<svg")


def test_a_set_that_was_never_evaluated_is_told_before_it_goes_live(trial, caplog):
    settings = configuration.read(trial.file)
    check_inputs(settings)
    assert "goes live without an evaluation" not in caplog.text
    changed = replace(settings, classify=replace(settings.classify, threshold=0.6))
    check_inputs(changed)
    assert "policy set 'trial' goes live without an evaluation" in caplog.text
    caplog.clear()
    name = evaluate.name_of(changed, evaluate.policies_of(changed))
    name.bind()
    check_inputs(changed)
    assert "goes live" not in caplog.text
    name.record.unlink()


def test_a_damaged_result_is_told_and_counts_as_none(trial, caplog, capsys):
    settings = configuration.read(trial.file)
    name = evaluate.name_of(settings, evaluate.policies_of(settings))
    volume = Volume(trial.root)
    for path in kept_files(trial):
        path.write_bytes(path.read_bytes()[:100])
    assert not kept(volume, name, Evaluation)
    assert "can't be read" in caplog.text
    assert trial.run(str(trial.gold)) == 0
    assert len(kept(volume, name, Evaluation)) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "name a gold set, or --speech with a file of reference texts"),
        (["nowhere.jsonl"], "nowhere.jsonl can't be read: No such file"),
        (["GOLD", "--against", "nothing"], "--against nothing is neither a folder of policies nor"),
        (["GOLD", "--policies", "nowhere"], "there is no folder of policies at"),
        (["GOLD", "--model", "/nowhere"], "nowhere"),
        (["GOLD", "--speech", "GOLD"], "name a gold set, or --speech"),
        (["--speech", "GOLD"], "unknown field"),
    ],
)
def test_what_is_wrong_is_one_sentence(trial, capsys, options, said):
    given = [str(trial.gold) if option == "GOLD" else option for option in options]
    assert trial.run(*given) == 2
    assert said in capsys.readouterr().err


def text(number: int, *categories: str, labelled: tuple[str, ...] | None = None) -> evaluate.Text:
    row = Labelled(text=f"text {number}", categories=categories, labelled=labelled)
    return evaluate.Text(number, row, f"text {number}", None)


def judged(settings: ClassifySettings, texts: list, **scores: list) -> dict:
    answers = {
        category: [Classification(score, truncated=False) for score in given]
        for category, given in scores.items()
    }
    policies = [policy for policy in POLICIES if policy.category in answers]
    return evaluate._judged(settings, policies, texts, answers, weighted=False)


def test_an_answer_that_failed_is_not_flagged_and_has_no_part_in_the_auc():
    texts = [text(1, "scams"), text(2), text(3, "scams")]
    (scams,) = judged(ClassifySettings(), texts, scams=[None, 0.2, 0.9]).values()
    figures = evaluate._figures("scams", None, scams)
    assert (figures.hits, figures.misses, figures.passed, figures.unanswered) == (1, 1, 1, 1)
    assert figures.auc.value == 1


def test_a_text_that_the_screen_keeps_out_is_not_flagged():
    settings = ClassifySettings(screen=ScreenSettings(threshold=0.1))
    scores: dict[str, list] = {"scams": [0.9, 0.9, 0.9], "any_policy": [0.05, 0.1, None]}
    found = judged(settings, [text(n, "scams") for n in range(3)], **scores)
    assert found["scams"].flagged.tolist() == [False, True, True]


def test_texts_that_nobody_looked_at_for_a_category_are_left_out_of_it():
    texts = [text(1, "scams", labelled=("scams",)), text(2, "harassment")]
    found = judged(ClassifySettings(), texts, scams=[0.9, 0.9], harassment=[0.9, 0.9])
    assert [each.number for each in found["scams"].texts] == [1, 2]
    assert [each.number for each in found["harassment"].texts] == [2]
    assert [each.number for each in found["any category"].texts] == [2]
    none = judged(ClassifySettings(), texts[:1], harassment=[0.9])["harassment"]
    assert evaluate._figures("harassment", None, none).f1 == Estimate()


def test_a_figure_of_none_or_all_has_the_interval_of_a_share():
    texts = [text(n, "scams") for n in range(10)]
    (scams,) = judged(ClassifySettings(), texts, scams=[0.9] * 10).values()
    figures = evaluate._figures("scams", None, scams)
    z2 = 1.959964**2
    assert (figures.recall.value, figures.recall.high) == (1, 1)
    assert figures.recall.low == pytest.approx(10 / (10 + z2))
    assert (figures.f1.value, figures.f1.low) == (1, None)


def test_an_estimate_is_told_in_a_few_characters():
    assert told(Estimate(0.5, 0.25, 1.0)) == "0.500 (0.25 to 1.00)"
    assert told(Estimate(0.5, -0.25, 1.0), sign="+") == "+0.500 (-0.25 to +1.00)"
    assert told(Estimate(0.5)) == "0.500"
    assert told(Estimate()) == "–"


def test_figures_of_no_answers_at_all_are_undefined():
    (scams,) = judged(ClassifySettings(), [text(1, "scams")], scams=[None]).values()
    assert np.isnan(scams.figures(np.ones((2, 1)))["calibration_error"]).all()
