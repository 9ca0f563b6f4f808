"""What changes the words that are heard and stands in no configuration.

``asr.name`` is bound to it (:mod:`earmark.names`), so an edit here wants a new name.  Libraries are
not in it: their versions stand in the provenance of each file of transcripts.
"""

from typing import Any

#: How WhisperX decodes, as options of ``ctranslate2.models.Whisper.generate``.
DECODING: dict[str, Any] = {
    "patience": 1,
    "length_penalty": 1,
    "repetition_penalty": 1,
    "no_repeat_ngram_size": 0,
    "suppress_blank": True,
    "suppress_tokens": [-1],
}
#: Probabilities at which a region of speech begins and ends: WhisperX's defaults
#: (whisperx/asr.py, load_model).
VAD_ONSET, VAD_OFFSET = 0.500, 0.363
#: When a window is heard in another language than its clip (:mod:`earmark.speech.languages`).
LANGUAGES: dict[str, float] = {
    "switch_probability": 0.7,
    "switch_seconds": 3.0,
    "hint_probability": 0.15,
    "hint_seconds": 6.0,
}

#: All of it, as JSON can hold it.
DECODING_FACTS: dict[str, Any] = DECODING | {
    "vad_onset": VAD_ONSET,
    "vad_offset": VAD_OFFSET,
    **LANGUAGES,
}
