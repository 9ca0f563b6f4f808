"""The GPU under a job: how much of it is used, and what to do when its memory is full.

Knows NVIDIA's management library (NVML) and how libraries say that CUDA has no memory;
knows nothing of models.  On a machine without a GPU there is nothing to know.
"""

import gc
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self, TypeVar

from earmark.errors import SetupError
from earmark.progress import SECONDS_BETWEEN_LINES

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

#: NVML itself averages the utilisation over up to a second.
SECONDS_BETWEEN_SAMPLES = 0.5


class GpuWatch:
    """Samples memory and utilisation of the GPU that this process uses, in a thread.

    All memory in use on the GPU counts, whoever uses it: a job has the GPU to itself.

        with GpuWatch(device) as gpu:
            ...  # load the model
            gpu.model_loaded("Whisper")
            ...  # work
        provenance |= gpu.facts()
    """

    def __init__(self, device: str) -> None:
        """Args: device: ``cuda``, or ``cpu`` for a watch that sees nothing."""
        self._device = device
        self._name = ""
        self._total = self._used = self._loaded = self._peak = 0  # bytes
        self._busy: list[int] = []  # percent, one per sample since the model was loaded
        self._handle: object = None
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="gpu-watch", daemon=True)

    def __enter__(self) -> Self:
        """Begin to sample; an NVML that fails is a warning, and nothing is known then."""
        if self._device == "cuda":
            self._open()
        if self._handle is not None:
            self._watcher.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._handle is None:
            return
        import pynvml

        self._done.set()
        self._watcher.join()
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()
        self._handle = None
        self._say(self._peak, "VRAM peak")

    def _open(self) -> None:
        import pynvml

        try:
            pynvml.nvmlInit()
            # Numbers mean nothing here: CUDA_VISIBLE_DEVICES and cgroups renumber.
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(cuda_uuid())
            self._name = pynvml.nvmlDeviceGetName(self._handle)
            self._total = pynvml.nvmlDeviceGetMemoryInfo(self._handle).total
            self._sample()
        except (pynvml.NVMLError, RuntimeError) as error:  # CUDA's, where it has no device
            self._handle, self._total = None, 0
            logger.warning("the GPU's use can't be told: NVML says %s", error)

    def model_loaded(self, model: str) -> None:
        """Tell how much memory is in use now that a model is loaded.

        Args:
            model: What to call it in the log.
        """
        if self._handle is None:
            return
        import pynvml

        with suppress(pynvml.NVMLError):  # the thread tells
            self._sample()
        self._loaded, self._busy = self._used, []
        logger.info(
            "%s loaded on %s; VRAM used: %.1f of %.1f GB",
            model, self._name, self._loaded / 1e9, self._total / 1e9,
        )  # fmt: skip

    def facts(self) -> dict[str, object]:
        """What was seen, for the provenance of a file; empty without a GPU.

        Returns:
            ``gpu`` (its name), ``vram_bytes``, ``vram_loaded_bytes`` (with the model, before
            any work), ``vram_peak_bytes``, ``gpu_utilisation_percent`` (mean from then on:
            the share of time in which some kernel ran).
        """
        if not self._total:
            return {}
        return {
            "gpu": self._name,
            "vram_bytes": self._total,
            "vram_loaded_bytes": self._loaded,
            "vram_peak_bytes": self._peak,
            "gpu_utilisation_percent": round(self._utilisation(), 1),
        }

    def _say(self, memory: int, what: str) -> None:
        logger.info(
            "%s: %s %.1f of %.1f GB, utilisation %.0f %%",
            self._name, what, memory / 1e9, self._total / 1e9, self._utilisation(),
        )  # fmt: skip

    def _utilisation(self) -> float:
        return sum(self._busy) / len(self._busy) if self._busy else 0.0

    def _sample(self) -> None:
        import pynvml

        self._used = pynvml.nvmlDeviceGetMemoryInfo(self._handle).used
        self._peak = max(self._peak, self._used)
        self._busy.append(pynvml.nvmlDeviceGetUtilizationRates(self._handle).gpu)

    def _watch(self) -> None:
        import pynvml

        said = time.monotonic()
        while not self._done.wait(SECONDS_BETWEEN_SAMPLES):
            try:
                self._sample()
                if time.monotonic() - said >= SECONDS_BETWEEN_LINES:
                    said = time.monotonic()
                    self._say(self._used, "VRAM used")
            except pynvml.NVMLError as error:  # figures are worth no job
                logger.warning("the GPU's use can't be told any more: NVML says %s", error)
                return


def has_gpu() -> bool:
    """Whether NVIDIA's driver finds a GPU on this machine."""
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return bool(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return False


def cuda_uuid() -> str:
    """NVML's name of the GPU that CUDA calls 0 in this process."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(0).uuid}"


def free_bytes() -> int:
    """Memory of the GPU that nobody uses; 0 where no GPU can be used."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if torch.cuda.is_available() else 0


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the GPU's memory is full.

    PyTorch has a class for it; CTranslate2 raises RuntimeError with CUDA's or cuBLAS's words.
    """
    said = str(error)
    return isinstance(error, RuntimeError) and any(words in said for words in _FULL)


#: The second and third are also said where there is no room for a library's own workspace.
_FULL = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_NOT_INITIALIZED",
)


class HalvingBatch:
    """Work in batches that become smaller for good when the GPU's memory is full.

    Attributes:
        size: What goes together at the most, items times the weight of each.
    """

    def __init__(self, size: int, key: str) -> None:
        """Begin with a size.

        Args:
            size: Items of a batch, times the weight of each.
            key: The configuration's key that gives it, for messages.
        """
        self.size = size
        self._key = key

    def run(
        self, work: Callable[[Sequence[T]], Sequence[R]], items: Sequence[T], weight: int = 1
    ) -> list[R]:
        """Do work on all items, in batches.

        Args:
            work: Takes up to ``size`` items and returns a result for each; what it did is
                done again in parts if the GPU's memory did not suffice.
            items: What to work on.
            weight: Of each item: where long ones need more memory, the limit that they find
                leaves room for as many more short ones.

        Returns:
            A result for each item, in their order.

        Raises:
            SetupError: the memory does not suffice for a single item.
        """
        results: list[R] = []
        while len(results) < len(items):
            batch = items[len(results) : len(results) + max(1, self.size // weight)]
            try:
                results.extend(work(batch))
                continue
            except RuntimeError as error:
                if not ran_out_of_memory(error):
                    raise
                if len(batch) == 1:
                    raise SetupError(
                        f"the GPU's memory does not suffice for a batch of one ({error}); end "
                        "what else uses this GPU, or choose a smaller model or number format"
                    ) from error
            # Out of the handler: until here the error's frames hold the batch's memory.
            self._halve(len(batch), weight)
        return results

    def _halve(self, tried: int, weight: int) -> None:
        fewer = (tried + 1) // 2
        self.size = fewer * weight
        logger.warning(
            "the GPU's memory is full; going on with batches of %d (%s can be lowered to it)",
            fewer,
            self._key,
        )
        import torch

        gc.collect()
        torch.cuda.empty_cache()  # does nothing where there is no CUDA
