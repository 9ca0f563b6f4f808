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
#: Most tokens of a window, by its seconds of speech; Whisper's own limit, 224, holds besides.  Far
#: beyond what anybody says: the announcements of the tests have 3 to 6 tokens a second in English,
#: Spanish, French, Italian and Russian.  Whisper's vocabulary has up to 7 for a syllable of Burmese
#: or Georgian, and the fastest languages make 8 syllables a second on average, those with long
#: ones 5 (C. Coupé et al., 2019, https://doi.org/10.1126/sciadv.aaw2594).  The tokens besides are
#: for speech that the detectors miss.
LIMITS = {"tokens_a_second": 50, "tokens_besides": 16}
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
    **LIMITS,
    "vad_onset": VAD_ONSET,
    "vad_offset": VAD_OFFSET,
    **LANGUAGES,
}
