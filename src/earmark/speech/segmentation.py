"""pyannote's segmentation network: how probable speech is, all along a clip.

The weights are those in WhisperX's wheel.  The network (PyanNet) and how it slides over a clip are
written here once more, with the same arithmetic (a test compares them): to import pyannote.audio
means to import what it is trained, tuned and measured with, 4,000 modules of which none is used
here, in each process that prepares clips.

Sources: H. Bredin and A. Laurent, "End-to-end speaker segmentation for overlap-aware
resegmentation" (https://arxiv.org/abs/2104.04045); ``pyannote.audio.models.segmentation.PyanNet``
and ``pyannote.audio.core.inference.Inference``.
"""

from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from asteroid_filterbanks.enc_dec import Encoder
from asteroid_filterbanks.param_sinc_fb import ParamSincFB
from torch import Tensor, nn
from torch.nn import functional

#: Input of the network: chunks of 5 s, each half a second after the one before.
SAMPLE_RATE = 16_000
CHUNK, STEP = 5 * SAMPLE_RATE, SAMPLE_RATE // 2
CHUNKS_TOGETHER = 32

#: The frames that it tells of: so many seconds of audio each, so many apart.
FRAME_SECONDS = 991 / SAMPLE_RATE
FRAME_STEP_SECONDS = 270 / SAMPLE_RATE

Scores = npt.NDArray[np.float32]


def frame_middle(frame: int) -> float:
    """Where a frame's middle is, in seconds."""
    start = frame * FRAME_STEP_SECONDS
    return 0.5 * (start + (start + FRAME_SECONDS))


class _SincNet(nn.Module):
    """Learned band-pass filters, then two convolutions (https://arxiv.org/abs/1808.00158)."""

    def __init__(self) -> None:
        super().__init__()
        self.wav_norm1d = nn.InstanceNorm1d(1, affine=True)
        filters = ParamSincFB(80, 251, stride=10, sample_rate=SAMPLE_RATE)
        self.conv1d = nn.ModuleList(
            [Encoder(filters), nn.Conv1d(80, 60, kernel_size=5), nn.Conv1d(60, 60, kernel_size=5)]
        )
        self.norm1d = nn.ModuleList(nn.InstanceNorm1d(n, affine=True) for n in (80, 60, 60))

    def forward(self, waveforms: Tensor) -> Tensor:
        """Of shape [chunks, 1, samples]; returns [chunks, 60, frames]."""
        outputs: Tensor = self.wav_norm1d(waveforms)
        for layer, (convolution, norm) in enumerate(zip(self.conv1d, self.norm1d, strict=True)):
            outputs = convolution(outputs)
            if layer == 0:
                outputs = outputs.abs()
            outputs = functional.leaky_relu(norm(functional.max_pool1d(outputs, 3)))
        return outputs


class SegmentationModel(nn.Module):
    """PyanNet, as WhisperX ships it: which of up to three speakers speak in each frame."""

    def __init__(self, device: str) -> None:
        """Load the weights.

        Args:
            device: ``cuda`` or ``cpu``.
        """
        super().__init__()
        self.sincnet = _SincNet()
        self.lstm = nn.LSTM(60, 128, num_layers=4, bidirectional=True, batch_first=True)
        self.linear = nn.ModuleList([nn.Linear(256, 128), nn.Linear(128, 128)])
        self.classifier = nn.Linear(128, 3)
        self.load_state_dict(_weights(_checkpoint()))
        self.eval().to(device)
        self._device = device

    def forward(self, waveforms: Tensor) -> Tensor:
        """Of shape [chunks, 1, samples]; returns probabilities, [chunks, frames, 3]."""
        outputs, _ = self.lstm(self.sincnet(waveforms).transpose(1, 2))
        for linear in self.linear:
            outputs = functional.leaky_relu(linear(outputs))
        return torch.sigmoid(self.classifier(outputs))

    @torch.inference_mode()
    def speech(self, audio: npt.NDArray[np.float32]) -> Scores:
        """How probable it is that anybody speaks in each frame of a clip.

        Args:
            audio: Samples, shape [n], at least one; mono at 16 kHz.

        Returns:
            Shape [frames]: for each frame the mean of the chunks that hold it, weighted by a
            Hamming window.
        """
        waveform = torch.from_numpy(audio)
        whole = max(0, (len(audio) - CHUNK) // STEP + 1)
        chunks: list[Tensor] = []
        if whole:
            chunks.extend(torch.split(waveform.unfold(0, CHUNK, STEP)[:, None], CHUNKS_TOGETHER))
        is_cut = not whole or (len(audio) - CHUNK) % STEP > 0
        if is_cut:
            last = waveform[whole * STEP :]
            chunks.append(functional.pad(last, (0, CHUNK - len(last)))[None, None])
        # In TF32 a GPU's answers would differ from a CPU's.
        with torch.backends.cudnn.flags(allow_tf32=False):
            speakers = [self(each.to(self._device)).cpu().numpy() for each in chunks]
        scores = _overlap_add(np.vstack(speakers).max(axis=-1))
        # Of a clip that ends within a chunk, the frames that begin before its end.
        frames = int(np.floor(len(audio) / SAMPLE_RATE / FRAME_STEP_SECONDS)) + 1
        return scores[:frames] if is_cut else scores


def _overlap_add(chunks: npt.NDArray[np.float32]) -> Scores:
    """One score a frame; shape [chunks, frames of a chunk]."""
    count, width = chunks.shape
    seconds = (CHUNK + (count - 1) * STEP) / SAMPLE_RATE
    scores = np.zeros(_frame_at(seconds) + 1, np.float32)
    weights = np.zeros_like(scores)
    window = np.hamming(width)
    for number, chunk in enumerate(chunks):
        first = _frame_at(number * STEP / SAMPLE_RATE)
        known = window * ~np.isnan(chunk)
        scores[first : first + width] += np.nan_to_num(chunk) * known
        weights[first : first + width] += known
    averages: Scores = np.divide(scores, np.maximum(weights, 1e-12), dtype=np.float32)
    return averages


def _frame_at(start: float) -> int:
    """The frame whose audio begins nearest to a moment, in seconds."""
    # Half a frame is added and taken away so that rounding errors are pyannote's.
    return round((start + 0.5 * FRAME_SECONDS - 0.5 * FRAME_SECONDS) / FRAME_STEP_SECONDS)


def _checkpoint() -> Path:
    package = find_spec("whisperx")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("whisperx isn't installed")
    return Path(package.origin).parent / "assets" / "pytorch_model.bin"


class _Unread:
    """Stands for what else lies in the checkpoint: options of training, in pyannote's classes."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


#: The classes of the checkpoint that hold no weights.
_UNREAD = (
    *("omegaconf.base.ContainerMetadata", "omegaconf.base.Metadata"),
    *("omegaconf.listconfig.ListConfig", "omegaconf.nodes.AnyNode"),
    *("pyannote.audio.core.model.Introspection", "pyannote.audio.core.task.Problem"),
    *("pyannote.audio.core.task.Resolution", "pyannote.audio.core.task.Specifications"),
    *("torch.torch_version.TorchVersion", "typing.Any"),
)


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    """Read a checkpoint; one that names anything else than tensors and the above is refused."""
    unread = [(_Unread, name) for name in _UNREAD]
    with torch.serialization.safe_globals([dict, list, int, defaultdict, *unread]):
        weights: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)[
            "state_dict"
        ]
    return weights
