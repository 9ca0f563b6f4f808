"""Classification of transcripts against written policies with CoPE-A.

A policy and a content make one prompt (:mod:`earmark.policy`); the model reads it once, and
the probabilities of the tokens "0" and "1" as its next word give the score.  That is how
CoPE-A's authors run it (https://huggingface.co/zentropi-ai/cope-a-9b): the score is
calibrated, and there is no generated text to parse.

The module knows prompts as tokens, the model and the files of the stage; it doesn't know
where policies come from or what a flag leads to.
"""

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from earmark.errors import EarmarkError
from earmark.models import Found, Model, find
from earmark.policy import PROMPT_SHA256, Policy, one_line, prompt_around, set_sha256
from earmark.progress import track
from earmark.tables import CLASSES, TRANSCRIPTS, read_provenance, read_table, write_table

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassifySettings:
    """Which model classifies, and how.

    Attributes:
        model: The base, a folder or a name on the Hugging Face hub.
        adapter: The PEFT adapter on top of it, likewise; None uses the base alone.
        revision: The hub's commit that the base is pinned to, or None.
        adapter_revision: The same for the adapter.
        device: ``cuda`` or ``cpu``.
        quantization: ``8bit`` or ``4bit`` (bitsandbytes), or None.
        dtype: Of the weights that are not quantized: ``bfloat16``, ``float16`` or
            ``float32``.
        batch_size: Most prompts per forward pass; long prompts go in smaller batches.
        max_tokens: Longest prompt, policy included.  CoPE-A was trained on up to 8,192.
        threads: CPU threads.
        threshold: Lowest score that is flagged, 0..1.
        thresholds: The same for single categories.
    """

    model: str = "google/gemma-2-9b"
    adapter: str | None = "zentropi-ai/cope-a-9b"
    device: str = "cuda"
    quantization: str | None = "8bit"
    dtype: str = "bfloat16"
    batch_size: int = 32
    max_tokens: int = 8192
    threads: int = 4
    threshold: float = 0.5
    thresholds: Mapping[str, float] = field(default_factory=dict)
    revision: str | None = None
    adapter_revision: str | None = None

    def threshold_of(self, category: str) -> float:
        """Lowest score that is flagged in a category, 0..1."""
        return self.thresholds.get(category, self.threshold)


class Score(NamedTuple):
    """A model's answer about one content.

    Attributes:
        score: Probability that the policy's labels apply, 0..1; None if there is an error.
        truncated: Whether the content's end was cut off to fit ``max_tokens``.
        error: Why there is no score.
    """

    score: float | None
    truncated: bool
    error: str | None = None


class Classifier:
    """A base model with its adapter, loaded once, that scores contents."""

    def __init__(self, settings: ClassifySettings) -> None:
        """Load tokenizer, base and adapter.

        Raises:
            EarmarkError: the device, a model or an option is not there, or the tokenizer
                has no single tokens for the two answers.
        """
        #: Where the models lie, and the hub's commits of them.
        self.base = find(Model("classify.model", settings.model, settings.revision))
        self.adapter: Found | None = None
        if settings.adapter is not None:
            self.adapter = find(
                Model("classify.adapter", settings.adapter, settings.adapter_revision)
            )
        self.settings = settings
        torch.set_num_threads(settings.threads)
        self.device = _device(settings.device)
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(  # type: ignore[no-untyped-call]
                self.base.folder
            )
            model: Any = AutoModelForCausalLM.from_pretrained(
                self.base.folder,
                dtype=_dtype(settings.dtype),
                quantization_config=_quantization(settings.quantization),
                device_map={"": self.device},
                # PyTorch's own attention drops Gemma-2's soft-capping without a word.
                attn_implementation="eager",
            )
            if self.adapter is not None:
                from peft import PeftModel  # slow, and talkative until logging is set up

                model = PeftModel.from_pretrained(
                    model, self.adapter.folder, torch_device=self.device
                ).get_base_model()
        except (OSError, ValueError) as error:
            raise EarmarkError(
                f"the classifier {settings.model} with adapter {settings.adapter} can't be loaded "
                f"({error}); check classify.model and classify.adapter, and that both are "
                "downloaded where this machine can read them"
            ) from error
        self._model = model.eval()
        if settings.max_tokens > (longest := model.config.max_position_embeddings):
            raise EarmarkError(
                f"classify.max_tokens is {settings.max_tokens}, but {settings.model} reads at "
                f"most {longest} tokens; lower it"
            )
        self._inside_control = _inside_control_tokens(self._tokenizer)
        self._answers = [self._answer_token(answer) for answer in ("0", "1")]
        if self.device == "cuda":
            free, total = torch.cuda.mem_get_info()
            logger.info(
                "%s takes %.1f GB of VRAM; %.1f of %.1f GB are free",
                settings.model,
                torch.cuda.memory_allocated() / 1e9,
                free / 1e9,
                total / 1e9,
            )

    def scores(self, policy: Policy, contents: Sequence[str]) -> list[Score]:
        """Score contents against one policy.

        A content that the model has no finite answer for gets an error instead of a score.
        What is wrong with the machine, such as a GPU out of memory, is raised.

        Args:
            policy: The policy.
            contents: Any texts; line breaks become spaces (:func:`earmark.policy.one_line`).

        Returns:
            One score per content, in their order.

        Raises:
            EarmarkError: the policy leaves no room for content within ``max_tokens``.
        """
        before, after = prompt_around(policy.text)
        prefix = [self._tokenizer.bos_token_id, *self._encode(before)]
        tail = self._encode(after)
        room = self.settings.max_tokens - len(prefix) - len(tail)
        if room < 1:
            raise EarmarkError(
                f"policy {policy.category} fills {len(prefix) + len(tail)} of the "
                f"{self.settings.max_tokens} tokens of a prompt; shorten it or raise "
                "classify.max_tokens"
            )
        bodies = [self._encode(one_line(content)) for content in contents]
        suffixes = [body[:room] + tail for body in bodies]
        scores: list[Score | None] = [None] * len(contents)
        lengths = [len(prefix) + len(suffix) for suffix in suffixes]
        for batch in batches(lengths, self.settings.batch_size, self.settings.max_tokens):
            answers = self._answer(prefix, [suffixes[index] for index in batch])
            for index, probability in zip(batch, answers, strict=True):
                truncated = len(bodies[index]) > room
                if probability is None:
                    scores[index] = Score(None, truncated, "the model's answer is not a number")
                else:
                    scores[index] = Score(probability, truncated)
        return [score for score in scores if score is not None]

    @torch.inference_mode()
    def _answer(self, prefix: list[int], suffixes: list[list[int]]) -> list[float | None]:
        """Probability of "1" over "0" after each prompt, None where it is not finite.

        Prompts are padded on the right, where causal attention keeps padding from all
        that counts.  Only the state at each prompt's last token goes through the language
        model's head: logits of 256,000 words for all tokens would not fit any GPU.
        """
        rows = torch.arange(len(suffixes))
        last = torch.tensor([len(prefix) + len(suffix) - 1 for suffix in suffixes])
        tokens = torch.full((len(suffixes), int(last.max()) + 1), self._tokenizer.pad_token_id)
        for row, suffix in zip(tokens, suffixes, strict=True):
            row[: len(prefix) + len(suffix)] = torch.tensor(prefix + suffix)
        states = self._model.get_decoder()(
            input_ids=tokens.to(self.device), use_cache=False
        ).last_hidden_state
        logits = self._model.get_output_embeddings()(states[rows, last])
        pair = logits[:, self._answers].float()
        cap = getattr(self._model.config, "final_logit_softcapping", None)
        if cap is not None:
            pair = cap * torch.tanh(pair / cap)
        probabilities: list[float] = torch.softmax(pair, dim=-1)[:, 1].tolist()
        finite = torch.isfinite(pair).all(dim=-1).tolist()
        return [p if sound else None for p, sound in zip(probabilities, finite, strict=True)]

    def _encode(self, text: str) -> list[int]:
        """Tokens of a text, none of which is a control token.

        A text that spells one ("<eos>") is tokenized in two pieces, so that the tokenizer
        never sees the spelling whole; its own switch (``split_special_tokens``) would let
        through those of Gemma's that are not declared special.
        """
        return [
            token
            for piece in self._inside_control.split(text)
            for token in self._tokenizer(piece, add_special_tokens=False).input_ids
        ]

    def _answer_token(self, answer: str) -> int:
        tokens = self._encode(answer)
        if len(tokens) != 1 or tokens[0] == self._tokenizer.unk_token_id:
            raise EarmarkError(
                f"{self.settings.model} has no single token for the answer {answer!r}; CoPE's "
                "prompt needs a model whose tokenizer does, such as Gemma-2"
            )
        return tokens[0]


def _device(name: str) -> str:
    if name not in ("cuda", "cpu"):
        raise EarmarkError(f"classify.device is {name!r}; choose cuda or cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise EarmarkError(
            "classify.device is 'cuda', but no GPU can be used here; check nvidia-smi, or set "
            "classify.device to 'cpu'"
        )
    return name


def _dtype(name: str) -> torch.dtype:
    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name not in known:
        raise EarmarkError(f"classify.dtype is {name!r}; choose {', '.join(known)}")
    return known[name]


def _quantization(name: str | None) -> BitsAndBytesConfig | None:
    if name is None:
        return None
    if name not in ("8bit", "4bit"):
        raise EarmarkError(f"classify.quantization is {name!r}; choose 8bit, 4bit or null")
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_8bit=name == "8bit", load_in_4bit=name == "4bit"
    )


def _inside_control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """The places after the first character of every spelt control token.

    Control tokens are all that was added to the vocabulary beside text, except runs of
    white space, which Gemma adds too and which stand for themselves.
    """
    spellings = [token for token in tokenizer.get_added_vocab() if token.strip(" \t\n\r▁")]
    spellings = [token for token in spellings if len(token) > 1]
    if not spellings:
        return re.compile(r"(?!)")
    return re.compile(
        "|".join(f"(?<={re.escape(each[0])})(?={re.escape(each[1:])})" for each in spellings)
    )


def batches(lengths: Sequence[int], batch_size: int, max_tokens: int) -> Iterator[list[int]]:
    """Group prompts of similar length, the longest first.

    Attention's memory grows with rows * length², and a batch never needs more of it than
    one prompt of ``max_tokens``: what fits once fits always, and if not it shows at once.

    Args:
        lengths: Tokens of each prompt, at most ``max_tokens``.
        batch_size: Most prompts of a batch.
        max_tokens: Longest prompt that must fit.

    Yields:
        Indices into ``lengths``; each occurs once.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    while order:
        fitting = max_tokens**2 // lengths[order[0]] ** 2
        size = max(1, min(batch_size, fitting))
        yield order[:size]
        order = order[size:]


def classify_archive(
    transcripts: Path,
    output: Path,
    policies: Sequence[Policy],
    settings: ClassifySettings,
    policy_name: str,
) -> None:
    """Classify all transcripts of an archive against all policies.

    Clips whose transcription failed get no row; a clip without speech is not flagged,
    without asking the model; a clip that the model has no answer for gets rows with status
    ``failed``.  With nothing to ask, the model isn't even loaded.

    Args:
        transcripts: A file of :data:`earmark.tables.TRANSCRIPTS`.
        output: The file of :data:`earmark.tables.CLASSES` to write, one row per clip and
            policy.
        policies: The policies, at least one.
        settings: Model and thresholds.
        policy_name: Name of the policy set, for the provenance.

    Raises:
        EarmarkError: the transcripts or the model can't be read.
    """
    started = time.monotonic()
    table = read_table(transcripts, TRANSCRIPTS).select(["archive", "ordinal", "text", "status"])
    source = read_provenance(transcripts)
    clips = [clip for clip in table.to_pylist() if clip["status"] == "ok"]
    texts = [clip["text"] or "" for clip in clips]
    spoken = [index for index, text in enumerate(texts) if text.strip()]
    classifier = Classifier(settings) if spoken else None

    rows = []
    for policy in track(policies, f"classify {output.stem}", "policies"):
        scores = [Score(0.0, truncated=False)] * len(clips)
        if classifier is not None:
            asked = classifier.scores(policy, [texts[index] for index in spoken])
            for index, score in zip(spoken, asked, strict=True):
                scores[index] = score
        threshold = settings.threshold_of(policy.category)
        rows += [
            {
                "archive": clip["archive"],
                "ordinal": clip["ordinal"],
                "category": policy.category,
                "flagged": None if score.score is None else score.score >= threshold,
                "score": score.score,
                "threshold": threshold,
                "truncated": score.truncated,
                "answer": "logits",
                "status": "ok" if score.error is None else "failed",
                "error": score.error,
            }
            for clip, score in zip(clips, scores, strict=True)
        ]
    rows.sort(key=lambda row: (row["ordinal"], row["category"]))
    seconds = time.monotonic() - started
    write_table(
        output,
        CLASSES,
        rows,
        {
            "model": settings.model,
            "model_revision": classifier and classifier.base.revision,
            "adapter": settings.adapter,
            "adapter_revision": classifier and classifier.adapter and classifier.adapter.revision,
            "quantization": settings.quantization,
            "dtype": settings.dtype,
            "max_tokens": settings.max_tokens,
            "prompt_sha256": PROMPT_SHA256,
            "policy": policy_name,
            "policy_sha256": json.dumps({each.category: each.sha256 for each in policies}),
            "policy_set_sha256": set_sha256(policies),
            "seconds": round(seconds, 3),
            "archive_status": source.get("archive_status"),
            "archive_error": source.get("archive_error"),
        },
    )
    logger.info(
        "classified %d clips of %s (%d with speech) against %d policies in %.1f s",
        len(clips),
        output.stem,
        len(spoken),
        len(policies),
        seconds,
    )
