"""Whether contents fall under a written policy, as a language model sees it.

Two kinds of answer (``classify.answer``):

``logits``
    CoPE-A's: the prompt ends where the answer belongs, and the probabilities of the tokens
    "0" and "1" as the next word give a calibrated score.  That is how CoPE-A's authors run it
    (https://huggingface.co/zentropi-ai/cope-a-9b); there is no generated text to parse.
``json``
    An instruction-tuned model writes a small object (:mod:`earmark.policy.json_answers`).

Knows prompts, tokens and batches; knows nothing of archives and files.
"""

import logging
from array import array
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from jinja2 import TemplateError

from earmark.errors import SetupError
from earmark.gpu import HalvingBatch, ran_out_of_memory
from earmark.models.inventory import find_classifier
from earmark.policy.json_answers import UnreadableError, read_answer
from earmark.policy.policies import (
    HEADING,
    Policy,
    json_prompt_around,
    one_line,
    prompt_around,
)
from earmark.policy.prompt_tokens import ALONE, Prompt, SharedPrompts, Split
from earmark.policy.start_up import import_transformers
from earmark.settings import ClassifySettings

if TYPE_CHECKING:  # PyTorch and Transformers take seconds to import, which only a model needs
    import torch

    from earmark.policy.prefix_attention import Prefix

logger = logging.getLogger(__name__)


class Classification(NamedTuple):
    """A model's answer about one content.

    Attributes:
        score: Probability that the policy's labels apply, 0..1; None unless ``status`` is ok.
        truncated: Whether the content's end was cut off to fit ``max_tokens``.
        status: ``ok``; ``unparsed``, if what the model wrote can't be read; ``failed``, if it
            has no answer.
        error: Why there is no score.
        raw_response: What the model wrote, for JSON answers.
    """

    score: float | None
    truncated: bool
    status: str = "ok"
    error: str | None = None
    raw_response: str | None = None


class Classifier:
    """A base model with its adapter, loaded once, that classifies contents by any policies."""

    def __init__(self, settings: ClassifySettings) -> None:
        """Load the model.

        Raises:
            SetupError: the device, a model or an option is not there, or the tokenizer has
                no single tokens for the two answers.
        """
        import torch

        import_transformers()
        from earmark.policy.language_model import LanguageModel

        if settings.answer not in ("logits", "json"):
            raise SetupError(f"classify.answer is {settings.answer!r}; choose logits or json")
        self.settings = settings
        torch.set_num_threads(settings.threads)
        try:
            self.model = LanguageModel(
                *find_classifier(settings),
                _device(settings.device),
                _dtype(settings.dtype),
                _quantization(settings.quantization),
                settings.llm_int8_threshold,
            )
        except SetupError:
            raise
        except Exception as error:  # tokenizers, for one, raises nothing more particular
            if ran_out_of_memory(error):
                raise SetupError(
                    f"the GPU's memory does not suffice for {settings.model} ({error}); end what "
                    "else uses this GPU, or set classify.quantization to 8bit or 4bit"
                ) from error
            raise SetupError(
                f"the classifier {settings.model} with adapter {settings.adapter} can't be loaded "
                f"({error}); check classify.model and classify.adapter, and that both are "
                "downloaded where this machine can read them"
            ) from error
        if settings.max_tokens > self.model.longest:
            raise SetupError(
                f"classify.max_tokens is {settings.max_tokens}, but {settings.model} reads at "
                f"most {self.model.longest} tokens; lower it"
            )
        if settings.answer == "logits":
            self._words = [self._answer_token(answer) for answer in ("0", "1")]
        else:
            self._around(Policy("none", "none", "none", "none"))  # so that its faults show at once
        self._near, self._known = ALONE, dict[str, "array[int]"]()
        tokens = settings.batch_size * settings.max_tokens
        self._batches = HalvingBatch(tokens, "classify.batch_size")

    def classify(
        self, policy: Policy, contents: Sequence[str]
    ) -> Iterator[tuple[int, Classification]]:
        """Judge contents by one policy.

        A content that the model has no finite answer for fails alone.  What is wrong with
        the machine, such as a GPU that is gone, is raised.

        Args:
            policy: The policy.
            contents: Any texts; line breaks become spaces
                (:func:`earmark.policy.policies.one_line`).

        Yields:
            The index of a content and its classification, each once.

        Raises:
            SetupError: the policy leaves no room for content within ``max_tokens``.
            EarmarkError: the GPU's memory is too small.
        """
        around = self._around(policy)
        prompts = SharedPrompts(self.model.safe_tokenizer, around, HEADING)
        bos = self.model.tokenizer.bos_token_id
        # A chat template begins the text by itself.
        first = [] if around.is_trusted or bos is None else [bos]
        written = self.settings.max_new_tokens if self.settings.answer == "json" else 0
        most = self.settings.max_tokens - len(first) - written
        if prompts.least > most:
            raise SetupError(
                f"policy {policy.category} fills {self.settings.max_tokens - most + prompts.least} "
                f"of the {self.settings.max_tokens} tokens of a prompt; shorten it or raise "
                "classify.max_tokens"
            )
        splits = [
            prompts.split(content, self._tokens_of(content, prompts), most)
            for content in map(one_line, contents)
        ]
        shared = [n for n, split in enumerate(splits) if split.begin is prompts.begin]
        others = [[n] for n, split in enumerate(splits) if split.begin is not prompts.begin]
        for indices in [shared, *others] if shared else others:
            yield from self._classify(policy, first, indices, [splits[index] for index in indices])

    def _classify(
        self, policy: Policy, first: list[int], indices: Sequence[int], splits: Sequence[Split]
    ) -> Iterator[tuple[int, Classification]]:
        """Judge contents whose prompts begin alike."""
        begin = [*first, *splits[0].begin]
        # What is left of the beginning goes with each text.
        shared = max(1, len(begin) - len(begin) % self.model.multiple)
        begin, left = begin[:shared], begin[shared:]
        (prefix,) = self._batches.run(lambda _: [self.model.begin(begin)], [begin], len(begin))
        ask = partial(self._score if self.settings.answer == "logits" else self._read, prefix)
        lengths = [len(left) + len(split.rest) for split in splits]
        groups = batches(lengths, len(prefix), self.settings.batch_size, self.settings.max_tokens)
        for group in groups:
            batch = [[*left, *splits[each].rest] for each in group]
            asked = self._batches.run(ask, batch, weight=max(map(len, batch)))
            for each, classification in zip(group, asked, strict=True):
                if splits[each].truncated:
                    classification = classification._replace(truncated=True)
                if classification.raw_response is not None:
                    classification = _parsed(classification, policy.category)
                yield indices[each], classification

    def _tokens_of(self, content: str, prompts: SharedPrompts) -> "array[int]":
        """Tokens of a content, made once for all policies that are asked with the same words."""
        if prompts.near != self._near:
            self._near, self._known = prompts.near, {}
        if content not in self._known:
            self._known[content] = prompts.tokens_near(content)
        return self._known[content]

    def _around(self, policy: Policy) -> Prompt:
        """What stands around each content."""
        if self.settings.answer == "logits":
            return Prompt(*prompt_around(policy.text))
        before, after = json_prompt_around(policy)
        if self.model.tokenizer.chat_template is None:
            return Prompt(before, after)
        here = "(the content)"
        try:
            prompt = self.model.tokenizer.apply_chat_template(
                [{"role": "user", "content": before + here + after}],
                tokenize=False,
                add_generation_prompt=True,
                # Thoughts would use up the tokens of the answer; a date would change scores.
                enable_thinking=False,
                date_string="1 Jan 2026",
            )
        except TemplateError as error:
            raise SetupError(
                f"the chat template of {self.settings.model} refuses a user's message ({error}); "
                "choose an instruction-tuned model for classify.answer: json"
            ) from error
        before, found, after = prompt.rpartition(here)  # a policy may hold the same words
        if not (found and before):
            raise SetupError(
                f"the chat template of {self.settings.model} changes what a user says; choose "
                "another model for classify.answer: json"
            )
        return Prompt(before, after, is_trusted=True)

    def _score(self, prefix: "Prefix", texts: Sequence[Sequence[int]]) -> list[Classification]:
        """Probability of "1" over "0" after each prompt."""
        import torch

        logits = self.model.next_logits(prefix, texts, self._words)
        scores = torch.softmax(logits, dim=-1)[:, 1].tolist()
        finite = torch.isfinite(logits).all(dim=-1).tolist()
        return [
            Classification(score, truncated=False) if is_sound else NO_NUMBER
            for score, is_sound in zip(scores, finite, strict=True)
        ]

    def _read(self, prefix: "Prefix", texts: Sequence[Sequence[int]]) -> list[Classification]:
        """What the model writes after each prompt, not parsed yet."""
        written = self.model.continuations(prefix, texts, self.settings.max_new_tokens, end="}")
        return [
            Classification(None, truncated=False, raw_response=each.text)
            if each.is_sound
            else NO_NUMBER
            for each in written
        ]

    def _answer_token(self, answer: str) -> int:
        # Behind a prompt, as some tokenizers put a blank before the first word of a text.
        before, after = prompt_around("policy")
        tokens = self.model.safe_tokenizer.encode("content", Prompt(before, after + answer))
        if self.model.tokenizer.decode(tokens[-1:]) != answer:
            raise SetupError(
                f"{self.settings.model} has no single token for the answer {answer!r}; CoPE's "
                "prompt needs a model whose tokenizer does, such as Gemma-2"
            )
        return tokens[-1]


#: A model whose numbers overflowed.
NO_NUMBER = Classification(None, False, "failed", "the model's answer is not a number")


def _parsed(classification: Classification, category: str) -> Classification:
    assert classification.raw_response is not None
    try:
        answer = read_answer(classification.raw_response, [category])
    except UnreadableError as error:
        return classification._replace(status="unparsed", error=f"unreadable answer: {error}")
    return classification._replace(score=answer.score)


def batches(
    lengths: Sequence[int], prefix: int, batch_size: int, max_tokens: int
) -> Iterator[list[int]]:
    """Group texts of similar length, the longest first.

    Attention's memory grows with texts * length * (prefix + length), and a batch never needs
    more of it than one prompt of ``max_tokens`` without a prefix would: what fits once fits
    always, and if not it shows at once.

    Args:
        lengths: Tokens of each text.
        prefix: Tokens that stand before each.
        batch_size: Most texts of a batch.
        max_tokens: Longest prompt that must fit.

    Yields:
        Indices into ``lengths``; each occurs once.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    while order:
        longest = max(1, lengths[order[0]])
        fitting = max_tokens**2 // (longest * (prefix + longest))
        size = max(1, min(batch_size, fitting))
        yield order[:size]
        order = order[size:]


def _device(name: str) -> str:
    import torch

    if name not in ("cuda", "cpu"):
        raise SetupError(f"classify.device is {name!r}; choose cuda or cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise SetupError(
            "classify.device is 'cuda', but no GPU can be used here; check nvidia-smi, or set "
            "classify.device to 'cpu'"
        )
    return name


def _dtype(name: str) -> "torch.dtype":
    import torch

    known = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
    if name not in known:
        raise SetupError(f"classify.dtype is {name!r}; choose {', '.join(known)}")
    return known[name]


def _quantization(name: str | None) -> str | None:
    if name not in ("8bit", "4bit", None):
        raise SetupError(f"classify.quantization is {name!r}; choose 8bit, 4bit or null")
    return name
