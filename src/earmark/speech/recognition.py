"""A Whisper model as CTranslate2 runs it: languages and words of a batch of windows.

The windows of a batch may be of different clips and in different languages: each has its
own prompt.  One pass of the encoder serves languages and words.  Decoding options are
WhisperX's (a test compares them).  Where windows come from and which belong together,
:mod:`earmark.speech.preparation` and :mod:`earmark.speech.transcribe` know.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from earmark.errors import SetupError
from earmark.models.inventory import find_whisper
from earmark.models.whisper_files import check_mels
from earmark.settings import AsrSettings
from earmark.speech.decoding import DECODING, LIMITS
from earmark.speech.preparation import Features


class Hypothesis(NamedTuple):
    """The words of a window.

    Attributes:
        text: Without surrounding space.
        logprob: Sum of the tokens' log-probabilities, the end token included.
        tokens: Their number, the end token included; 0, with a logprob of 0, if there is none.
        no_speech_probability: Whisper's own doubt that there is speech, 0 to 1.
        is_cut: Whether they ran on to the most that a window may have.
    """

    text: str
    logprob: float
    tokens: int
    no_speech_probability: float
    is_cut: bool = False


#: How probable each language is, by ISO 639-1 code.
Probabilities = Mapping[str, float]

States = npt.NDArray[np.floating[Any]]
#: States that the encoder makes of a second.
STATES_A_SECOND = 50


class Language(NamedTuple):
    """A language.

    Attributes:
        code: ISO 639-1.
        probability: How sure the model is, 0 to 1; 1 if there was nothing to detect.
    """

    code: str
    probability: float


class Piece(NamedTuple):
    """A piece of a window.

    Attributes:
        row: Which window of the batch.
        first: Where it begins, in states of the encoder.
        last: Where it ends, likewise.
    """

    row: int
    first: int
    last: int


def states_of(encoded: Any) -> States:
    """The encoder's states, shape [windows, 1500, width], in this machine's memory.

    Args:
        encoded: What :meth:`Recogniser.encode` returned.
    """
    import ctranslate2

    return np.asarray(encoded.to_device(ctranslate2.Device.cpu))


class Recogniser:
    """A loaded Whisper model.

    Attributes:
        mels: Bands of the spectrograms that it takes in.
    """

    def __init__(self, settings: AsrSettings) -> None:
        """Load the model.

        Raises:
            SetupError: the model, the device, the number format or the language is not there, or
                the model's mel bands are not those that its folder asks for.
        """
        if settings.device == "cuda":
            import torch  # noqa: F401  # loads CUDA's libraries, which CTranslate2 would not find
        import ctranslate2
        import faster_whisper

        if settings.device == "cuda" and not ctranslate2.get_cuda_device_count():
            raise SetupError(
                "asr.device is 'cuda', but this machine has no usable CUDA device; "
                "repair the driver, or set asr.device and classify.device to 'cpu', "
                "asr.compute_type to 'int8' and classify.quantization to null"
            )
        folder = find_whisper(settings).folder
        try:
            self._model = faster_whisper.WhisperModel(
                folder,
                device=settings.device,
                compute_type=settings.compute_type,
                cpu_threads=settings.threads,
            )
            language = settings.language if self._multilingual else "en"
            self._prompts: dict[str, list[int]] = {}
            if language is not None:
                self._prompt(language)
        except Exception as error:  # tokenizers raises nothing more particular
            raise SetupError(
                f"the Whisper model '{settings.model}' cannot be loaded "
                f"({' '.join(str(error).split())}); check asr.model, asr.device, "
                "asr.compute_type and asr.language in the config"
            ) from error
        self.mels = check_mels(Path(folder), int(self._model.model.n_mels))
        self._given = language
        self._beam_size = settings.beam_size

    @property
    def _multilingual(self) -> bool:
        return bool(self._model.model.is_multilingual)

    def encode(self, features: Sequence[Features]) -> Any:
        """Encoder states of some windows.

        Args:
            features: A spectrogram each, float32 of shape [mels, 3000].

        Returns:
            CTranslate2's StorageView of shape [windows, 1500, width], on the model's device.
        """
        return self._model.encode(np.stack(features))

    @property
    def detects_languages(self) -> bool:
        """Whether no language is given."""
        return self._given is None

    def detect_languages(self, encoded: Any) -> list[Probabilities]:
        """The languages of each window of a batch; the given one alone if there is one.

        Args:
            encoded: What :meth:`encode` returned.
        """
        if self._given is not None:
            return [{self._given: 1.0}] * int(encoded.shape[0])
        return [
            {token.removeprefix("<|").removesuffix("|>"): share for token, share in found}
            for found in self._model.model.detect_language(encoded)
        ]

    def detect_within(self, states: States, pieces: Sequence[Piece]) -> list[Probabilities]:
        """The languages of pieces of windows, by the encoder's states of these alone.

        Args:
            states: What :func:`states_of` says.
            pieces: All of one length, which is not the number of mel bands.
        """
        import ctranslate2

        found = np.stack([states[piece.row, piece.first : piece.last] for piece in pieces])
        return self.detect_languages(ctranslate2.StorageView.from_array(found))

    def decode(
        self, encoded: Any, languages: Sequence[str], speech_seconds: Sequence[float]
    ) -> list[Hypothesis]:
        """The words of each window of a batch.

        Words that run on (the decoder repeats itself, which holds the whole batch) are cut where
        more than so much speech can have.

        Args:
            encoded: What :meth:`encode` returned.
            languages: ISO 639-1 code for each window.
            speech_seconds: How much of each window is speech.
        """
        limits = [self._most_tokens(seconds) for seconds in speech_seconds]
        results = self._model.model.generate(
            encoded,
            [self._prompt(language) for language in languages],
            beam_size=self._beam_size,
            max_length=2 * max(limits),  # CTranslate2 leaves half of it to the prompt
            return_scores=True,
            return_no_speech_prob=True,
            **DECODING,
        )
        end = self._model.hf_tokenizer.token_to_id("<|endoftext|>")
        penalty = DECODING["length_penalty"]
        heard = []
        for result, limit in zip(results, limits, strict=True):
            ids = result.sequences_ids[0]
            is_cut = len(ids) >= limit
            kept = ids[:limit]
            words = [token for token in kept if token < end]
            # CTranslate2 divides the sum by length ** length_penalty.
            logprob = result.scores[0] * len(ids) ** penalty if ids else 0.0
            heard.append(
                Hypothesis(
                    text=self._model.hf_tokenizer.decode(words).strip(),
                    logprob=logprob * len(kept) / len(ids) if is_cut else logprob,
                    tokens=len(kept) + (not is_cut) if ids else 0,
                    no_speech_probability=result.no_speech_prob,
                    is_cut=is_cut,
                )
            )
        return heard

    def _most_tokens(self, speech_seconds: float) -> int:
        spoken = LIMITS["tokens_besides"] + LIMITS["tokens_a_second"] * speech_seconds
        return min(int(self._model.max_length) // 2, math.ceil(spoken))

    def _prompt(self, language: str) -> list[int]:
        from faster_whisper.tokenizer import Tokenizer

        if language not in self._prompts:
            tokenizer = Tokenizer(
                self._model.hf_tokenizer, self._multilingual, task="transcribe", language=language
            )
            self._prompts[language] = self._model.get_prompt(tokenizer, [], without_timestamps=True)
        return self._prompts[language]
