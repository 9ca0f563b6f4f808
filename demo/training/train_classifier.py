"""Train the demo's classifier: a tiny Gemma-2 and a LoRA adapter that answers CoPE's prompt.

    python -m demo.training.train_classifier

Run from the repository's root; takes about a quarter of an hour on two cores.

The base learns, on short policies that name a kind of sentence and give examples of it, to
look for what a policy asks for.  The adapter then learns the demo's three categories from
the real texts in ``config/policies``, as CoPE-A was tuned from Gemma-2.

A policy is ten times as long as most posts.  So each step runs a policy once, repeats its
keys and values for a whole batch of posts, and runs only what follows.

One sentence among 25 leaves hardly a trace in the loss of a single answer.  So three more
losses speak at every token or sentence: half-way through the layers a head that is thrown
away names the kind of sentence each token belongs to; in front of the last layer another
tags the tokens that the policy is about; and at the end of each sentence the model has to
answer for the post so far.  Without them nothing was learned of posts of a minute.
"""

import argparse
import json
import logging
import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma2Config,
    Gemma2ForCausalLM,
    PreTrainedTokenizerFast,
)

from demo.training import sentences
from demo.training.classifier_data import (
    Pools,
    Post,
    draw_category_post,
    draw_length,
    example_policy,
    pools,
    write_down,
)
from earmark import REPOSITORY
from earmark.policy.policies import load_policies, prompt_around

POLICIES = REPOSITORY / "config" / "policies"
MODELS = REPOSITORY / "demo" / "models"
BASE_NAME = "gemma-demo"
ADAPTER_NAME = "cope-demo"

#: Gemma's first token ids, and those of its chat format.
CONTROL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
VOCABULARY = 2048
WIDTH = 128
LAYERS = 4
RANK = 16
#: Kinds of sentence in posts.
KINDS = (*sentences.KINDS, "babble")
WARM_UP_STEPS = 30
REPORT_STEPS = 20
#: How much more a token counts that is to be tagged; in a long post they are few.
TAG_WEIGHT = 4.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phase:
    """One optimisation; the rate falls linearly from ``rate`` to a twentieth of it.

    Attributes:
        steps: Optimiser steps.
        lengths_from: Step from which posts of each of `LENGTHS` occur: finding one sentence
            among 25 is learned fast by whoever knows the sentence, and hardly otherwise.
        policies: Policies per step.
        posts: Most posts per policy and step.
        rate: AdamW's learning rate.
    """

    steps: int
    lengths_from: tuple[int, int, int, int]
    policies: int
    posts: int
    rate: float


BASE_PHASE = Phase(steps=700, lengths_from=(0, 150, 220, 300), policies=3, posts=20, rate=2e-3)
ADAPTER_PHASE = Phase(steps=400, lengths_from=(0, 60, 100, 140), policies=3, posts=20, rate=3e-3)


@dataclass(frozen=True)
class Task:
    """Posts to be judged by the policy of one kind of sentence."""

    kind: str
    policy: str
    posts: list[Post]


def posts_per_task(phase: Phase, longest: int) -> int:
    """Fewer posts when they are long, so that all steps take about as long."""
    return max(8, min(phase.posts, 4 * phase.posts // longest))


class Heads(torch.nn.Module):
    """Heads that serve the training alone, each on the states of one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = torch.nn.Linear(WIDTH, len(KINDS))
        self.tag = torch.nn.Linear(WIDTH, 1)


class Losses(NamedTuple):
    """Cross-entropies of a task, scalars.

    Attributes:
        answer: Of the answers to the whole prompts.
        kinds: Of the kind of sentence that each token belongs to.
        tags: Of the tags of all tokens of the posts.
        so_far: Of the answers at the end of each sentence.
    """

    answer: torch.Tensor
    kinds: torch.Tensor
    tags: torch.Tensor
    so_far: torch.Tensor


def example_tasks(rng: random.Random, known: Pools, phase: Phase) -> Iterator[list[Task]]:
    """For each step, tasks about short policies that name a kind and give examples of it."""
    for step in range(phase.steps):
        yield [
            _task(rng, known, phase, step, kind, example_policy(rng, known, kind))
            for kind in rng.sample(sentences.KINDS, phase.policies)
        ]


def category_tasks(rng: random.Random, known: Pools, phase: Phase) -> Iterator[list[Task]]:
    """For each step, tasks about the real policies of the demo's categories."""
    texts = {each.category: each.text for each in load_policies(POLICIES, sentences.CATEGORIES)}
    for step in range(phase.steps):
        yield [
            _task(rng, known, phase, step, category, texts[category])
            for category in rng.sample(sorted(texts), phase.policies)
        ]


def _task(
    rng: random.Random, known: Pools, phase: Phase, step: int, kind: str, policy: str
) -> Task:
    shortest, longest = draw_length(rng, sum(step >= each for each in phase.lengths_from))
    posts = [
        draw_category_post(rng, known, kind, index % 2 == 0, rng.randint(shortest, longest))
        for index in range(posts_per_task(phase, longest))
    ]
    return Task(kind, policy, posts)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer that works as Gemma's does, with the vocabulary of this small world.

    Like Gemma's it is a BPE with bytes for what it doesn't know, writes a space as "▁",
    keeps runs of line breaks whole and splits numbers into digits.
    """
    rng = random.Random(5)
    corpus = ["".join(prompt_around(policy.text)) for policy in load_policies(POLICIES)]
    corpus += [example_policy(rng, pools(held_out=False), kind) for kind in sentences.KINDS] * 3
    known = pools(held_out=False)
    everything = [text for kind in sentences.KINDS for text in known[kind]]
    corpus += [write_down(rng, rng.choices(everything, k=8), [""] * 8).text for _ in range(1500)]

    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    fixed = [*CONTROL_TOKENS, *byte_tokens]
    trained = _bpe(models.BPE(unk_token="<unk>"))
    trained.train_from_iterator(
        corpus, BpeTrainer(vocab_size=VOCABULARY - len(fixed), show_progress=False)
    )
    state = json.loads(trained.to_str())["model"]
    words = sorted(state["vocab"], key=state["vocab"].__getitem__)
    vocabulary = {token: index for index, token in enumerate([*fixed, *words])}
    merges = [tuple(pair) for pair in state["merges"]]
    tokenizer = _bpe(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in CONTROL_TOKENS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
    )


def _bpe(model: models.BPE) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"\n+|[0-9]|▁?[^▁\n0-9]+|▁"), behavior="isolated"
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer


def build_base(tokenizer: PreTrainedTokenizerFast) -> Gemma2ForCausalLM:
    """An untrained Gemma-2 of about a million parameters."""
    torch.manual_seed(0)
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=WIDTH // 4,
            query_pre_attn_scalar=WIDTH // 4,
            sliding_window=4096,
            max_position_embeddings=8192,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # The other implementations leave out Gemma-2's soft-capping.
            attn_implementation="eager",
        )
    )


def answer_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[int, int]:
    """The tokens of the answers "0" and "1"."""
    ids: Any = tokenizer.convert_tokens_to_ids(["0", "1"])
    return ids[0], ids[1]


def task_losses(
    model: Gemma2ForCausalLM | PeftModel,
    heads: Heads,
    tokenizer: PreTrainedTokenizerFast,
    task: Task,
    policy_fixed: bool,
) -> tuple[Losses, float]:
    """Run one policy once and all its posts behind it.

    Args:
        model: The model.
        heads: The heads that serve the training alone.
        tokenizer: The model's tokenizer.
        task: Policy and posts.
        policy_fixed: No gradient flows through the policy: three times as fast, and enough
            to fine-tune what reads posts.

    Returns:
        The losses and the share of right answers.
    """
    before, after = prompt_around(task.policy)
    prefix = torch.tensor([[tokenizer.bos_token_id, *_encode(tokenizer, before)]])
    tail = _encode(tokenizer, after)
    suffixes, kinds, tags, ends, answers_so_far = [], [], [], [], []
    for row, post in enumerate(task.posts):
        suffix: list[int] = []
        found = False
        for sentence in post.sentences:
            # The tokenizer splits at spaces, so sentences can be tokenized one by one.
            part = _encode(tokenizer, sentence.text)
            suffix += part
            found = found or sentence.kind == task.kind
            kinds += [KINDS.index(sentence.kind)] * len(part)
            tags += [float(sentence.kind == task.kind)] * len(part)
            ends.append((row, len(suffix) - 1))
            answers_so_far.append(float(found))
        suffixes.append(suffix + tail)
    last = torch.tensor([len(suffix) - 1 for suffix in suffixes])
    width = int(last.max()) + 1
    tokens = torch.full((len(suffixes), width), tokenizer.pad_token_id)
    for row, suffix in zip(tokens, suffixes, strict=True):
        row[: len(suffix)] = torch.tensor(suffix)
    in_content = torch.arange(width) <= (last - len(tail))[:, None]

    cache = DynamicCache()
    with torch.no_grad() if policy_fixed else nullcontext():
        model(prefix, past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(suffixes))
    kept = last.unique()
    output = model(
        tokens,
        past_key_values=cache,
        cache_position=torch.arange(prefix.shape[1], prefix.shape[1] + width),
        use_cache=True,
        logits_to_keep=kept,
        output_hidden_states=True,
    )
    answers = output.logits[torch.arange(len(suffixes)), torch.searchsorted(kept, last)]
    zero, one = answer_tokens(tokenizer)
    flagged = torch.tensor([post.holds(task.kind) for post in task.posts])
    answer_loss = functional.cross_entropy(answers, torch.where(flagged, one, zero))
    tag_loss = functional.binary_cross_entropy_with_logits(
        heads.tag(output.hidden_states[-2])[in_content].squeeze(-1),
        torch.tensor(tags),
        pos_weight=torch.tensor(TAG_WEIGHT),
    )
    kind_loss = functional.cross_entropy(
        heads.kind(output.hidden_states[2])[in_content], torch.tensor(kinds)
    )
    words = model.get_input_embeddings().weight  # also those of the language model's head
    ended = output.hidden_states[-1][tuple(torch.tensor(ends).T)]
    so_far_loss = functional.binary_cross_entropy_with_logits(
        ended @ (words[one] - words[zero]), torch.tensor(answers_so_far)
    )
    hits = ((answers[:, one] > answers[:, zero]) == flagged).float().mean()
    return Losses(answer_loss, kind_loss, tag_loss, so_far_loss), float(hits)


def _encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False).input_ids
    return ids


def optimise(
    model: Gemma2ForCausalLM | PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    steps: Iterator[list[Task]],
    phase: Phase,
    policy_fixed: bool,
) -> None:
    """Train what of the model can be trained."""
    heads = Heads()
    parameters = [each for each in model.parameters() if each.requires_grad]
    parameters += heads.parameters()
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.0)
    begun, reports = time.monotonic(), []
    model.train()
    for step, tasks in enumerate(steps):
        for group in optimizer.param_groups:
            fall = 1 - 0.95 * step / phase.steps
            group["lr"] = phase.rate * min(1.0, (step + 1) / WARM_UP_STEPS) * fall
        optimizer.zero_grad(set_to_none=True)
        for task in tasks:
            losses, hits = task_losses(model, heads, tokenizer, task, policy_fixed)
            loss = torch.stack(losses).sum() / len(tasks)
            loss.backward()
            reports.append([*(each.item() for each in losses), hits])
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if (step + 1) % REPORT_STEPS == 0:
            means = [sum(each) / len(each) for each in zip(*reports, strict=True)]
            seconds = time.monotonic() - begun
            figures = (
                "answer {:.3f}, kinds {:.3f}, tags {:.3f}, so far {:.3f}, right {:.3f}".format(
                    *means
                )
            )
            logger.info("step %d, %.0f s: %s", step + 1, seconds, figures)
            reports.clear()
    model.eval()


def train_base(folder: Path) -> None:
    """Train the base from nothing and save it with its tokenizer, weights in bfloat16."""
    tokenizer = build_tokenizer()
    model: Any = build_base(tokenizer)
    logger.info("base: %d tokens, %d parameters", len(tokenizer), model.num_parameters())
    tasks = example_tasks(random.Random(11), pools(held_out=False), BASE_PHASE)
    optimise(model, tokenizer, tasks, BASE_PHASE, policy_fixed=False)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer.json"
    compact = json.dumps(
        json.loads(file.read_text("utf-8")), ensure_ascii=False, separators=(",", ":")
    )
    file.write_text(compact + "\n", encoding="utf-8")


def train_adapter(base: Path, folder: Path) -> None:
    """Train the adapter on a base that is already saved, and save it, weights in bfloat16."""
    torch.manual_seed(1)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, attn_implementation="eager"
    )
    config = LoraConfig(
        r=RANK,
        lora_alpha=RANK,
        target_modules=[
            *("q_proj", "k_proj", "v_proj", "o_proj"),
            *("gate_proj", "up_proj", "down_proj"),
        ],
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    tasks = category_tasks(random.Random(12), pools(held_out=False), ADAPTER_PHASE)
    optimise(adapted, tokenizer, tasks, ADAPTER_PHASE, policy_fixed=True)
    adapted.to(torch.bfloat16).save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink()  # PEFT's empty model card
    file = folder / "adapter_config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    # A name instead of this machine's path: whoever loads the adapter brings the base.
    written["base_model_name_or_path"] = base.name
    written["target_modules"].sort()  # PEFT keeps a set, in another order each time
    file.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=MODELS, help="folder to write to")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--adapter-only", action="store_true", help="keep the base that is there")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    if not options.adapter_only:
        train_base(options.models / BASE_NAME)
    train_adapter(options.models / BASE_NAME, options.models / ADAPTER_NAME)


if __name__ == "__main__":
    main()
