"""Transcripts as tasks for Label Studio, which people correct and label there.

The format is that of Label Studio's import ("Import pre-annotated data"): a list of tasks, each
with ``data`` and one prediction, whose results name the controls of the labelling interface.
"""

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from earmark.record.clips import Clip

#: Where Label Studio serves files of ``LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT``.
_LOCAL_FILES = "/data/local-files/?d="


def interface(categories: Iterable[str]) -> str:
    """The labelling interface that fits the tasks, in Label Studio's XML.

    Args:
        categories: Those that people may choose.
    """
    choices = "".join(f"    <Choice value={quoteattr(each)}/>\n" for each in categories)
    return f"""\
<View>
  <Audio name="audio" value="$audio"/>
  <Labels name="segment" toName="audio">
    <Label value="speech"/>
  </Labels>
  <TextArea name="transcript" toName="audio" perRegion="true" editable="true"/>
  <Choices name="category" toName="audio" choice="multiple">
{choices}  </Choices>
</View>
"""


def task(clip: Clip) -> str:
    """A clip as a task, in JSON.

    Its audio is what Label Studio serves of the volume, its prediction the transcript by segments,
    and the category of the highest score if the clip was flagged.
    """
    results = [each for number, part in enumerate(clip.segments) for each in _results(number, part)]
    if clip.status == "flagged" and clip.category is not None:
        results.append(_result("category", "choices", {"choices": [clip.category]}))
    data = {
        "audio": _LOCAL_FILES + quote(clip.opus_path or ""),
        "id": clip.id,
        "archive": clip.archive,
        "file": clip.original_filename,
        "status": clip.status,
        "language": clip.language,
        "score": clip.score,
        "category": clip.category,
        "doubt": clip.doubt,
        "text": clip.text,
    }
    prediction = {
        "model_version": f"{clip.asr or 'unrecorded'}, {clip.policy or 'unrecorded'}",
        "score": clip.score,
        "result": results,
    }
    return json.dumps({"data": data, "predictions": [prediction]}, ensure_ascii=False)


def _results(number: int, segment: dict[str, Any]) -> list[dict[str, Any]]:
    """A segment as a region of the audio and the words in it."""
    region = {"start": segment["start"], "end": segment["end"], "channel": 0}
    name = f"segment{number}"
    return [
        _result("segment", "labels", {**region, "labels": ["speech"]}) | {"id": name},
        _result("transcript", "textarea", {**region, "text": [segment["text"].strip()]})
        | {"id": name},
    ]


def _result(control: str, kind: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"from_name": control, "to_name": "audio", "type": kind, "value": value}
