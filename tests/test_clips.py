"""Looking for clips, looking at one, and their transcripts as files."""

import csv
import json
from datetime import date
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded_archive import Archive, judgement, member, query, transcript
from place import Place

from earmark import cli
from earmark.record.clips import Clip, Wanted, search
from earmark.record.database import connect
from earmark.record.erasure import Erased, Found
from earmark.record.label_studio import interface
from earmark.record.transcript_files import write

WHATEVER = Wanted()


def segment(text: str, start: float = 0.0, end: float = 1.5) -> dict:
    said = {"start": start, "end": end, "text": text}
    return said | {"language": "en", "avg_logprob": -0.1, "doubt": None}


@pytest.fixture
def place(tmp_path: Path, migrated_database: str) -> Place:
    """Three clips: one about a bank, a Spanish one, one that tries to write to the terminal."""
    (tmp_path / "volume").mkdir()
    place = Place(tmp_path, tmp_path / "volume")
    place.use(migrated_database)
    archive = Archive(tmp_path, migrated_database)
    archive.members = [member(0, member="calls/Zoë.mp3"), member(1), member(2)]
    archive.heard = [
        transcript(
            0, text="Send the bank password. Now!",
            segments=[segment("Send the bank password."), segment(" Now!", 61.25, 3661.5)],
        ),
        transcript(1, text="el banco", language="es", languages=[{"language": "es", "share": 1.0}]),
        transcript(
            2, text="bank \x1b[31m<b> --> =1+1", segments=[segment("\x1b[31m<b> --> =1\n\n2")]
        ),
    ]  # fmt: skip
    archive.judged = [
        judgement(0, "scams", 0.9),
        judgement(0, "threats", 0.2),
        judgement(1, "scams", 0.4),
        judgement(2, "scams", 0.1),
    ]
    archive.load()
    return place


def found(place: Place, conninfo: str, **wanted: Any) -> list[int | None]:
    with connect(conninfo) as connection:
        return [clip.ordinal for clip in search(connection, place.volume, Wanted(**wanted))]


@pytest.mark.parametrize(
    ("wanted", "ordinals"),
    [
        ({}, [0, 1, 2]),  # the highest score first
        ({"words": "BANK"}, [0, 2]),
        ({"words": '"bank password"'}, [0]),
        ({"words": "password or banco"}, [0, 1]),
        ({"words": "bank -password"}, [2]),
        ({"language": "fr"}, [0, 2]),  # a quarter of it
        ({"language": "es"}, [1]),
        ({"category": "scams"}, [0]),
        ({"category": "threats"}, []),
        ({"min_score": 0.4}, [0, 1]),
        ({"since": date(2026, 11, 3)}, []),
        ({"since": date(2026, 11, 2), "until": date(2026, 11, 2)}, [0, 1, 2]),
    ],
)
def test_clips_are_found_by(place, migrated_database, wanted, ordinals):
    assert found(place, migrated_database, **wanted) == ordinals


def test_words_of_scripts_without_spaces_are_found_within_a_text(place, migrated_database):
    with connect(migrated_database) as connection, connection.cursor() as cursor:
        cursor.execute(
            "UPDATE transcripts SET transcript_text = '我的银行账户密码是什么 100%% Bank' "
            "WHERE audio_file_id = (SELECT id FROM audio_files WHERE ordinal = 1)", ()
        )  # fmt: skip
    assert found(place, migrated_database, words="银行") == [1]
    assert found(place, migrated_database, words="密码 bank 100%") == [1]
    assert found(place, migrated_database, words="银行 账_") == []


def test_a_clip_that_is_being_erased_is_not_found_or_shown_any_more(
    place, migrated_database, capsys
):
    Erased(place.volume).begin(f"{0:064x}", Found([], []))
    assert found(place, migrated_database) == [1, 2]
    (number,) = query(migrated_database, "SELECT id FROM audio_files WHERE ordinal = 0")[0]
    assert cli.main(["show", "--configfile", str(place.file), str(number)]) == 2
    assert "has no clip" in capsys.readouterr().err


def test_a_search_without_a_word_is_refused(place, capsys):
    assert cli.main(["search", "--configfile", str(place.file), "!!!"]) == 2
    assert "there is no word" in capsys.readouterr().err


def test_what_is_found_is_a_table_that_writes_nothing_to_the_terminal(place, capsys):
    assert cli.main(["search", "--configfile", str(place.file), "bank", "--limit", "9"]) == 0
    said = capsys.readouterr().out
    assert "2 shown" in said
    assert r"\x1b[31m" in said
    assert "\x1b" not in said


@pytest.mark.parametrize("how", ["id", "opus", "absolute", "name", "end of name"])
def test_a_clip_is_shown_whole_by_its_id_or_file(place, migrated_database, capsys, how):
    query(
        migrated_database,
        "INSERT INTO reviewers (name, password_hash, role) VALUES ('ada', 'x', 'reviewer'); "
        "INSERT INTO review_decisions (audio_file_id, reviewer_id, round, chosen_by, verdict, "
        "claimed_at) SELECT af.id, r.id, 'first', 'score', 'unsure', now() "
        "FROM audio_files af, reviewers r WHERE af.ordinal = 0",
    )
    (row,) = query(migrated_database, "SELECT id, opus_path FROM audio_files WHERE ordinal = 0")
    asked = {
        "id": str(row[0]),
        "opus": row[1],
        "absolute": str(place.volume.root / row[1]),
        "name": "calls/Zoë.mp3",
        "end of name": "Zoë.mp3",
    }[how]
    assert cli.main(["show", "--configfile", str(place.file), asked]) == 0
    said = capsys.readouterr().out
    assert str(place.volume.root / row[1]) in said
    assert "01:01.2 - 61:01.5  Now!" in said
    for part in ("scams", "0.9", "ada", "unsure", "whisper", "cope"):
        assert part in said
    assert cli.main(["show", "--configfile", str(place.file), asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["transcripts"][0]["segments"][1]["text"] == " Now!"


def test_a_copy_of_an_earlier_member_is_shown_with_its_audio_and_transcript(
    tmp_path, place, migrated_database, capsys
):
    archive = Archive(tmp_path, migrated_database, "copies.tar")
    archive.members = [member(0), member(1, member="copy.mp3", duplicate_of=0, opus_path=None)]
    archive.heard, archive.judged = [transcript(0)], [judgement(0, "scams", 0.9)]
    archive.load()
    assert cli.main(["show", "--configfile", str(place.file), "copy.mp3", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["audio"].endswith("copies.tar/000000.opus")
    assert (len(shown["transcripts"]), len(shown["scores"])) == (1, 1)


def test_of_several_clips_of_a_name_the_ids_are_told(place, migrated_database, capsys):
    query(migrated_database, "UPDATE audio_files SET original_filename = 'x/same.mp3'")
    assert cli.main(["show", "--configfile", str(place.file), "same.mp3"]) == 2
    assert "several clips are called same.mp3: 1 (a.tar), 2 (a.tar)" in capsys.readouterr().err


def test_no_name_is_a_pattern(place, capsys):
    assert cli.main(["show", "--configfile", str(place.file), "%"]) == 2
    assert "the database has no clip %" in capsys.readouterr().err


# Files


EXPECTED = {
    "srt": (
        "1\n00:00:00,000 --> 00:00:01,500\nSend the bank password.\n\n"
        "2\n00:01:01,250 --> 01:01:01,500\nNow!\n"
    ),
    "vtt": (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nSend the bank password.\n\n"
        "00:01:01.250 --> 01:01:01.500\nNow!\n"
    ),
    "txt": "Send the bank password.\nNow!\n",
    "audacity": ("0.000000\t1.500000\tSend the bank password.\n61.250000\t3661.500000\tNow!\n"),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_transcript_is_a_file_for_each_clip(place, tmp_path, capsys, kind):
    target = tmp_path / "out"
    arguments = ["export", "--configfile", str(place.file), kind, str(target), "--words", "bank"]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out == f"Transcripts in {target}: 2\n"
    first, hostile = sorted(path for path in target.rglob("*") if path.is_file())
    assert first.relative_to(target).as_posix().startswith("2026-11-02/a.tar/000000.")
    assert first.read_text() == EXPECTED[kind]
    text = hostile.read_text()
    assert r"\x1b[31m" in text
    assert "\x1b" not in text
    assert text.count("-->") == {"srt": 1, "vtt": 1}.get(kind, 1)
    assert ("<b>" in text) == (kind != "vtt")


def test_archives_of_one_name_on_two_days_keep_their_files_apart(tmp_path):
    said = [segment("hello")]
    clips = [
        Clip(
            number, "a.tar", date(2026, 11, number), 0, "x", None, None, "ok", None, None, None,
            None, None, "hello", said,
        )
        for number in (2, 3)
    ]  # fmt: skip
    assert write(clips, "srt", tmp_path) == 2
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.srt")) == [
        "2026-11-02/a.tar/000000.srt",
        "2026-11-03/a.tar/000000.srt",
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_transcripts_are_one_table(place, tmp_path, kind):
    target = tmp_path / f"out.{kind}"
    rows: list[dict[str, Any]]
    assert cli.main(["export", "--configfile", str(place.file), kind, str(target)]) == 0
    match kind:
        case "csv":
            rows = list(csv.DictReader(target.read_text("utf-8-sig").splitlines()))
            assert "segments" not in rows[0]
        case "jsonl":
            rows = [json.loads(line) for line in target.read_text().splitlines()]
            assert rows[0]["segments"][1]["end"] == 3661.5
        case "parquet":
            rows = pq.read_table(target).to_pylist()
            assert rows[0]["segments"][1]["end"] == 3661.5
    assert rows[0]["original_filename"] == "calls/Zoë.mp3"
    assert [float(row["score"]) for row in rows] == [0.9, 0.4, 0.1]


def label_studio_export(place, folder):
    """The tasks, and the controls of the labelling interface by their names."""
    target = folder / "tasks.json"
    assert cli.main(["export", "--configfile", str(place.file), "label-studio", str(target)]) == 0
    interface = ElementTree.parse(target.with_suffix(".xml")).getroot()
    return json.loads(target.read_text()), {tag.get("name"): tag for tag in interface.iter()}


def test_label_studio_gets_audio_transcripts_and_flags_as_predictions(place, tmp_path):
    tasks, controls = label_studio_export(place, tmp_path)
    assert [task["data"]["score"] for task in tasks] == [0.9, 0.4, 0.1]
    for task in tasks:
        assert task["data"]["audio"].startswith(
            "/data/local-files/?d=audio/date%3D2026-11-02/a.tar"
        )
        (prediction,) = task["predictions"]
        assert prediction["score"] == task["data"]["score"]
        for result in prediction["result"]:  # what Label Studio's own validation asks for
            control = controls[result["from_name"]]
            assert result["type"] == control.tag.lower()
            assert result["to_name"] == control.get("toName")
            known = {each.get("value") for each in control}
            assert set(result["value"].get(result["type"], ())) <= known
    *regions, flag = tasks[0]["predictions"][0]["result"]
    assert flag["value"] == {"choices": ["scams"]}
    assert [each["value"]["text"] for each in regions[1::2]] == [
        ["Send the bank password."],
        ["Now!"],
    ]
    assert regions[2]["id"] == regions[3]["id"] != regions[0]["id"]
    assert (regions[2]["value"]["start"], regions[2]["value"]["end"]) == (61.25, 3661.5)
    assert "choices" not in {each["type"] for each in tasks[1]["predictions"][0]["result"]}


def test_tasks_for_label_studio_are_not_written_where_its_interface_goes(place, tmp_path, capsys):
    target = tmp_path / "tasks.xml"
    assert cli.main(["export", "--configfile", str(place.file), "label-studio", str(target)]) != 0
    assert "name another for the tasks" in capsys.readouterr().err
    assert not target.exists()


def test_label_studio_gets_an_empty_list_where_nothing_is_found(tmp_path):
    assert write([], "label-studio", tmp_path / "tasks.json") == 0
    assert json.loads((tmp_path / "tasks.json").read_text()) == []


def test_a_category_of_any_name_is_a_choice_of_label_studio_s_interface():
    (view,) = [ElementTree.fromstring(interface(['a"<b>&', "scams"]))]
    assert [each.get("value") for each in view.iter("Choice")] == ['a"<b>&', "scams"]


def test_a_file_is_no_folder_and_a_folder_no_file(place, tmp_path, capsys):
    for kind, target in (("csv", tmp_path), ("srt", place.file)):
        assert cli.main(["export", "--configfile", str(place.file), kind, str(target)]) == 2
    assert "is a folder; name a file for csv" in capsys.readouterr().err


@given(st.text(), st.floats(0, 1e6), st.sampled_from(["srt", "vtt", "txt", "audacity"]))
def test_whatever_is_said_stays_on_its_line(tmp_path_factory, text, start, kind):
    clip = Clip(
        7, None, None, None, "x", None, None, "ok", None, None, None, None, None, text,
        [segment(text, start, start + 1), segment("end", start + 1, start + 2)],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("out")
    assert write(iter([clip]), kind, folder) == 1
    (path,) = folder.iterdir()
    lines = path.read_text("utf-8").split("\n")
    assert len(lines) == {"srt": 8, "vtt": 8, "txt": 3, "audacity": 3}[kind]
    assert sum(" --> " in line for line in lines) == (
        2 if kind in ("srt", "vtt") else " --> " in text
    )
