"""Speech to text with WhisperX: one archive's clips to one table of transcripts.

WhisperX brings the model, the voice activity detection, the windows and the decoding
options.  Its own ``transcribe`` drops what a researcher needs (the probabilities of language
and of no speech, the number of tokens behind a mean), so the loop over windows is here; each
window passes the encoder once, for language detection and for decoding.
"""

import logging
import math
import os
import time
import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from earmark.errors import EarmarkError
from earmark.media import MediaError, decode_audio
from earmark.models import Model, find
from earmark.progress import track
from earmark.tables import MANIFEST, TRANSCRIPTS, read_provenance, read_table, write_table

logger = logging.getLogger(__name__)

#: Whisper's input: 16 kHz, windows of at most 30 s.
SAMPLE_RATE = 16_000
WINDOW_SECONDS = 30

Audio = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AsrSettings:
    """How clips are transcribed; the fields are the keys of the config's ``asr`` section.

    Attributes:
        name: Name of this set of settings.
        model: A Whisper model's name, or a folder with a CTranslate2 model.
        revision: The hub's commit that it is pinned to, or None.
        device: ``cuda`` or ``cpu``.
        compute_type: CTranslate2's number format.
        batch_size: Windows that pass the model together.
        beam_size: Beams of the decoder.
        language: ISO 639-1 code, or None to detect each clip's.
        vad: ``pyannote`` or ``silero``.
        threads: CPU threads.
    """

    name: str
    model: str
    device: str = "cuda"
    compute_type: str = "float16"
    batch_size: int = 16
    beam_size: int = 5
    language: str | None = None
    vad: str = "pyannote"
    threads: int = 4
    revision: str | None = None


@dataclass(frozen=True)
class Segment:
    """What was said in one window of speech.

    Attributes:
        start: Seconds from the clip's beginning.
        end: Seconds from the clip's beginning.
        text: The words, without surrounding space.
        avg_logprob: Mean log-probability of the tokens, the end token included.
    """

    start: float
    end: float
    text: str
    avg_logprob: float


@dataclass(frozen=True)
class Transcript:
    """What was said in one clip.

    Attributes:
        text: All segments; empty without speech.
        language: ISO 639-1 code; None without speech.
        language_probability: 0 to 1, averaged over the windows by their length; 1 if the
            language was given.
        confidence: exp of the token-weighted mean log-probability, 0 to 1.
        no_speech_probability: Whisper's own doubt that there is speech, 0 to 1, averaged
            over the windows by their length.
        speech_seconds: Seconds that the voice activity detection calls speech.
        segments: One per window, in order.
    """

    text: str = ""
    language: str | None = None
    language_probability: float | None = None
    confidence: float | None = None
    no_speech_probability: float | None = None
    speech_seconds: float = 0.0
    segments: tuple[Segment, ...] = ()


class _Decoded(NamedTuple):
    text: str
    logprob: float  # sum over the tokens
    tokens: int
    no_speech_probability: float


class Recogniser:
    """A loaded Whisper model with its voice activity detection."""

    def __init__(self, settings: AsrSettings) -> None:
        """Load the model.

        Raises:
            EarmarkError: the model, the device or the number format is not there.
        """
        # These take ten seconds to import; only a job that transcribes should wait for them.
        os.environ["PYANNOTE_METRICS_ENABLED"] = "false"  # it would report every clip's length
        # pyannote's file reader lacks a library; it gets samples from us and reads no file.
        warnings.filterwarnings("ignore", message=r"\s*torchcodec is not installed")
        import torch
        import whisperx.asr

        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)  # its import sets INFO
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise EarmarkError(
                "asr.device is 'cuda', but this machine has no usable CUDA device; "
                "repair the driver, or set asr.device and classify.device to 'cpu', "
                "asr.compute_type to 'int8' and classify.quantization to null"
            )
        folder, self.revision = find(Model("asr.model", settings.model, settings.revision))
        try:
            self._pipeline = whisperx.load_model(
                folder,
                settings.device,
                compute_type=settings.compute_type,
                asr_options={"beam_size": settings.beam_size},
                language=settings.language,
                vad_method=settings.vad,
                threads=settings.threads,
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise EarmarkError(
                f"the Whisper model '{settings.model}' cannot be loaded "
                f"({' '.join(str(error).split())}); check asr.model, asr.device and "
                "asr.compute_type in the config"
            ) from error
        self._settings = settings
        if settings.device == "cuda":
            free, total = torch.cuda.mem_get_info()
            logger.info(
                "Whisper loaded; VRAM used: %.1f of %.1f GB", (total - free) / 1e9, total / 1e9
            )

    def transcribe(self, audio: Audio) -> Transcript:
        """Transcribe one clip.

        Args:
            audio: Samples, shape [n], mono at 16 kHz, -1 to 1.
        """
        windows = self._find_speech(audio)
        language, language_probability = self._settings.language, 1.0
        segments: list[Segment] = []
        tokens: list[int] = []
        doubts: list[float] = []
        for first in range(0, len(windows), self._settings.batch_size):
            batch = windows[first : first + self._settings.batch_size]
            encoded = self._encode(audio, batch)
            if language is None:
                language, language_probability = self._detect_language(encoded, batch)
            for window, result in zip(
                batch, self._decode(encoded, len(batch), language), strict=True
            ):
                segments.append(
                    Segment(
                        start=round(window["start"], 3),
                        end=round(window["end"], 3),
                        text=result.text,
                        avg_logprob=result.logprob / result.tokens,
                    )
                )
                tokens.append(result.tokens)
                doubts.append(result.no_speech_probability)
        if not segments:
            return Transcript()
        logprob = np.average([segment.avg_logprob for segment in segments], weights=tokens)
        return Transcript(
            text=" ".join(segment.text for segment in segments if segment.text),
            language=language,
            language_probability=language_probability,
            confidence=math.exp(min(0.0, float(logprob))),
            no_speech_probability=float(np.average(doubts, weights=_lengths(windows))),
            speech_seconds=sum(end - start for w in windows for start, end in w["segments"]),
            segments=tuple(segments),
        )

    def _find_speech(self, audio: Audio) -> list[dict[str, Any]]:
        """Windows of at most 30 s that hold speech, with the stretches of speech in each."""
        if not audio.size:
            return []
        vad, limits = self._pipeline.vad_model, self._pipeline._vad_params
        waveform = vad.preprocess_audio(audio)
        windows: list[dict[str, Any]] = vad.merge_chunks(
            vad({"waveform": waveform, "sample_rate": SAMPLE_RATE}),
            WINDOW_SECONDS,
            onset=limits["vad_onset"],
            offset=limits["vad_offset"],
        )
        return windows

    def _encode(self, audio: Audio, windows: list[dict[str, Any]]) -> Any:
        """Encoder states of some windows, shape [windows, 1500, width]."""
        features = [
            self._pipeline.preprocess(
                {
                    "inputs": audio[
                        int(window["start"] * SAMPLE_RATE) : int(window["end"] * SAMPLE_RATE)
                    ]
                }
            )["inputs"]
            for window in windows
        ]
        return self._pipeline.model.encode(np.stack(features))

    def _detect_language(self, encoded: Any, windows: list[dict[str, Any]]) -> tuple[str, float]:
        """The language of a clip: that of its first batch of windows, weighted by their length.

        WhisperX looks at the first 30 s of the file, silence and music included.
        """
        model = self._pipeline.model.model
        if not model.is_multilingual:
            return "en", 1.0
        lengths = _lengths(windows)
        weights: Counter[str] = Counter()
        for length, ranking in zip(lengths, model.detect_language(encoded), strict=True):
            for token, probability in ranking:
                weights[token] += probability * length
        token, weight = weights.most_common(1)[0]
        return token.removeprefix("<|").removesuffix("|>"), weight / sum(lengths)

    def _decode(self, encoded: Any, windows: int, language: str) -> list[_Decoded]:
        """The words of some windows, with WhisperX's decoding options."""
        model, options = self._pipeline.model, self._pipeline.options
        from faster_whisper.tokenizer import Tokenizer

        tokenizer = Tokenizer(
            model.hf_tokenizer, model.model.is_multilingual, task="transcribe", language=language
        )
        prompt = model.get_prompt(tokenizer, [], without_timestamps=options.without_timestamps)
        results = model.model.generate(
            encoded,
            [prompt] * windows,
            beam_size=options.beam_size,
            patience=options.patience,
            length_penalty=options.length_penalty,
            max_length=model.max_length,
            suppress_blank=options.suppress_blank,
            suppress_tokens=options.suppress_tokens,
            no_repeat_ngram_size=options.no_repeat_ngram_size,
            repetition_penalty=options.repetition_penalty,
            return_scores=True,
            return_no_speech_prob=True,
        )
        decoded = []
        for result in results:
            ids = result.sequences_ids[0]
            text = tokenizer.tokenizer.decode([i for i in ids if i < tokenizer.eot])
            decoded.append(
                _Decoded(
                    text=text.strip(),
                    # CTranslate2 divides the sum by length ** length_penalty.
                    logprob=result.scores[0] * len(ids) ** options.length_penalty,
                    tokens=len(ids) + 1,  # the end token counts
                    no_speech_probability=result.no_speech_prob,
                )
            )
        return decoded


def transcribe_archive(
    manifest: Path, output: Path, volume_root: Path, settings: AsrSettings
) -> None:
    """Transcribe every clip of an archive that is ok, selected and no duplicate.

    A clip that cannot be decoded is a row with ``status='failed'``; only a broken machine
    (memory, device, disk) raises.  The model is not loaded when there is nothing to do.

    Args:
        manifest: The archive's manifest.
        output: The Parquet file to write, with the columns of ``tables.TRANSCRIPTS``.
        volume_root: What ``opus_path`` is relative to.
        settings: How to transcribe.

    Raises:
        EarmarkError: the model cannot be loaded, or an audio file has vanished.
    """
    started = time.monotonic()
    origin = read_provenance(manifest)
    clips = [
        clip
        for clip in read_table(manifest, MANIFEST).to_pylist()
        if clip["status"] == "ok" and clip["selected"] and clip["duplicate_of"] is None
    ]
    rows = []
    revision = None
    if clips:
        recogniser = Recogniser(settings)
        revision = recogniser.revision
        for clip in track(clips, description=f"transcribe {clips[0]['archive']}", unit="clips"):
            row = _transcribe_clip(recogniser, volume_root / clip["opus_path"])
            rows.append({"archive": clip["archive"], "ordinal": clip["ordinal"], **row})
    write_table(
        output,
        TRANSCRIPTS,
        rows,
        {
            **{k: v for k, v in asdict(settings).items() if k not in ("name", "revision")},
            "model_revision": revision,
            "asr": settings.name,
            "whisperx": version("whisperx"),
            "archive_status": origin.get("archive_status"),
            "archive_error": origin.get("archive_error"),
            "seconds": round(time.monotonic() - started, 3),
        },
    )


def _transcribe_clip(recogniser: Recogniser, path: Path) -> dict[str, Any]:
    if not path.exists():
        raise EarmarkError(
            f"{path} is in the manifest but not on the volume; "
            "check the volume, or delete the manifest to encode the archive again"
        )
    started = time.monotonic()
    try:
        row = asdict(recogniser.transcribe(decode_audio(path, SAMPLE_RATE))) | {"status": "ok"}
    except MediaError as error:
        row = {"status": "failed", "error": str(error)}
    return row | {"seconds": round(time.monotonic() - started, 3)}


def _lengths(windows: list[dict[str, Any]]) -> list[float]:
    return [window["end"] - window["start"] for window in windows]
