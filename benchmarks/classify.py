"""Classification by shared prefix against whole prompts and generated JSON: `make bench-classify`.

    python -m benchmarks.classify

Transcripts as long as clips of 60 s have them are judged by one written policy, cut to 600
tokens, with the demo's model and as many threads on each side, in turns:

- ours: `earmark.policy.classifier.Classifier`: the policy once per job, transcripts in batches;
- whole prompts: the reference use of CoPE-A, one whole prompt after the other through the
  model's own attention, and the two logits of its last position;
- JSON: the first design's worker: its prompt, one transcript at a time, 100 tokens of answer
  (``max_new_tokens=100``; a model that isn't tuned to stop writes them all).

What counts is the wall time for all transcripts, computing the policy included, and for each
side that of its fastest round.  The slow sides take part with fewer transcripts.

Bars: ours is at least 20 times as fast as JSON and 2.5 times as fast as whole prompts, and the
scores are those of whole prompts, within 1e-4 in float32.

With ``--screen`` the stage classifies the transcripts by all policies that ship, with a screen
that lets a tenth of them through and without one, in turns.  The model is a Gemma 2 of one layer
with random weights (`benchmarks.random_models.narrow_gemma`): in the demo's, scores of attention
take most of a pass, so that a longer policy costs more there than in a model of real width.  No
model here has learned to screen, so the threshold is put where the scores have their last tenth:
what a screen costs is measured, not what it misses.  The bar is a third of the passes' CPU time.

With ``--profile`` ours alone runs, and it is told which step takes how long.  With
``--adapter-apart`` it runs with the adapter beside the weights and within them.  With
``--memory CLIPS`` the stage classifies so many transcripts; the bar is that its memory grows by
no more than 50 MB from the first fifth of them on.
"""

import argparse
import hashlib
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AttentionInterface

from benchmarks.random_models import narrow_gemma, write_gemma
from benchmarks.report import Result, finish, progress
from benchmarks.transcribe import MOST_GROWTH, device_name, resident_bytes, timed
from demo.training.classifier_data import MIXED, draw_post, pools
from earmark import REPOSITORY
from earmark.models.inventory import find_classifier
from earmark.policy.classifier import Classifier
from earmark.policy.classify import classify_archive
from earmark.policy.language_model import LanguageModel, quantization_config
from earmark.policy.policies import Policy, load_policies, one_line, prompt_around
from earmark.policy.screen import screened, screening_policy
from earmark.settings import ClassifySettings, ScreenSettings
from earmark.tables import TRANSCRIPTS, write_table

LEAST_OVER_JSON = 20
LEAST_OVER_WHOLE_PROMPTS = 2.5
MOST_DIFFERENCE = 1e-4
LEAST_BY_SCREEN = 3

#: The first design's question, letter for letter.
FIRST_PROMPT = """Analyze this transcript for harmful content.

Transcript: "{transcript}"

Respond with JSON only: {{"flagged": true/false, "score": 0.0-1.0, \
"category": "category or null"}}"""
FIRST_MAX_NEW_TOKENS = 100


def transcripts(number: int) -> list[str]:
    """Transcripts of clips of 60 s, each of 18 to 24 sentences, the same ones each time."""
    rng, known = random.Random(7), pools(held_out=True)
    return [draw_post(rng, known, rng.randint(18, 24), MIXED).text for _ in range(number)]


def cut_policy(tokenizer: Any, tokens: int) -> Policy:
    """A written policy of so many tokens; a longer one is cut off, a shorter one repeated."""
    (policy,) = load_policies(REPOSITORY / "config" / "policies", ["scams"])
    known = tokenizer(policy.text, add_special_tokens=False).input_ids
    repeated = known * (tokens // len(known) + 1)
    return replace(policy, text=tokenizer.decode(repeated[:tokens]).strip())


class Ours:
    """The policy once, transcripts in batches."""

    def __init__(self, settings: ClassifySettings) -> None:
        self.classifier = Classifier(settings)

    def scores(self, policy: Policy, contents: Sequence[str]) -> list[float | None]:
        """A score for each content, in their order."""
        return [each.score for _, each in sorted(self.classifier.classify(policy, contents))]


class OneByOne:
    """A model as Transformers runs it: its own attention, one text after the other."""

    def __init__(self, settings: ClassifySettings) -> None:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(settings.threads)
        dtype = getattr(torch, settings.dtype)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(settings.model)
        model: Any = AutoModelForCausalLM.from_pretrained(
            settings.model,
            dtype=dtype,
            quantization_config=quantization_config(settings.quantization, dtype),
            device_map={"": settings.device},
            attn_implementation="eager",
        )
        if settings.adapter is not None:
            model = PeftModel.from_pretrained(model, settings.adapter)
        self._model = model.eval()
        self._device = settings.device
        self._words = self.tokenizer.convert_tokens_to_ids(["0", "1"])

    @torch.inference_mode()
    def score(self, policy: Policy, content: str) -> float:
        """CoPE-A's reference use: the whole prompt, and the two logits at its end."""
        tokens = self._tokens(one_line(content).join(prompt_around(policy.text)))
        logits = self._model(tokens, use_cache=False).logits[0, -1, self._words].float()
        return float(torch.softmax(logits, dim=-1)[1])

    @torch.inference_mode()
    def generate(self, content: str, tokens: int = FIRST_MAX_NEW_TOKENS) -> str:
        """The first design's answer of so many tokens, not parsed."""
        written = self._model.generate(
            inputs=self._tokens(FIRST_PROMPT.format(transcript=content)),
            max_new_tokens=tokens,
            min_new_tokens=tokens,
            do_sample=False,
        )
        text: str = self.tokenizer.decode(written[0], skip_special_tokens=True)
        return text

    def _tokens(self, prompt: str) -> torch.Tensor:
        # Gemma's tokenizer puts <bos> first by itself, the demo's doesn't.
        prompt = self.tokenizer.bos_token + prompt
        tokens = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
        on_device: torch.Tensor = tokens.to(self._device)
        return on_device


def compare(
    settings: ClassifySettings, number: int, rounds: int, policy_tokens: int
) -> tuple[list[Result], list[str]]:
    """Run the sides in turns.

    Args:
        settings: The model.
        number: Transcripts for ours; whole prompts get a quarter, JSON a twentieth of them.
        rounds: The fastest counts.
        policy_tokens: Length of the policy.

    Returns:
        Ours against whole prompts and against JSON, and a sentence for each bar that was missed.
    """
    ours, theirs = Ours(settings), OneByOne(settings)
    policy = cut_policy(theirs.tokenizer, policy_tokens)
    contents = transcripts(number)
    lengths = [len(theirs.tokenizer(each).input_ids) for each in contents]
    progress(
        f"{number} transcripts of {sum(lengths) / number:.0f} tokens, a policy of {policy_tokens}, "
        f"{settings.threads} threads"
    )
    ours.scores(policy, contents[:2])
    theirs.score(policy, contents[0])
    theirs.generate(contents[0])
    # The first ones are as long as any: they are drawn, not sorted.
    few, fewest = contents[: max(1, number // 4)], contents[: max(1, number // 20)]
    times: dict[str, list[float]] = {"ours": [], "whole prompts": [], "JSON": []}
    for turn in range(rounds):
        scores, taken = timed(lambda: ours.scores(policy, contents))
        times["ours"].append(taken / number)
        expected, taken = timed(lambda: [theirs.score(policy, each) for each in few])
        times["whole prompts"].append(taken / len(few))
        _, taken = timed(lambda: [theirs.generate(each) for each in fewest])
        times["JSON"].append(taken / len(fewest))
        said = ", ".join(f"{side} {1000 * each[-1]:.1f} ms" for side, each in times.items())
        progress(f"round {turn + 1} of {rounds}: {said} per transcript")
    fastest = {side: min(each) for side, each in times.items()}
    missed = []
    pairs = zip(scores, expected, strict=False)
    apart = max(abs(one - two) if one is not None else 1.0 for one, two in pairs)
    print(f"scores differ from those of whole prompts by {apart:.1e} at the most")
    if settings.dtype == "float32" and settings.quantization is None and apart > MOST_DIFFERENCE:
        missed.append(f"scores differ by {apart:.1e}, wanted {MOST_DIFFERENCE:g}")
    results = []
    for side, least in (("whole prompts", LEAST_OVER_WHOLE_PROMPTS), ("JSON", LEAST_OVER_JSON)):
        ratio = fastest[side] / fastest["ours"]
        print(f"ours is {ratio:.1f} times as fast as {side}")
        if ratio < least:
            missed.append(f"ours is {ratio:.2f} times as fast as {side}, wanted {least:g}")
        results.append(
            Result(
                f"classify, {side}",
                ratio,
                3600 / fastest["ours"],
                3600 / fastest[side],
                "transcripts of 60 s an hour, one policy",
                device_name(settings.device),
            )
        )
    return results, missed


def profile(settings: ClassifySettings, number: int, policy_tokens: int) -> int:
    """Tell how long each step of ours takes; returns the exit status."""
    from earmark.policy import language_model, prefix_attention, prompt_tokens

    ours = Ours(settings)
    policy = cut_policy(ours.classifier.model.tokenizer, policy_tokens)
    contents = transcripts(number)
    # All of them, as in the rounds: until the allocator keeps memory of this size, each pass
    # waits for the kernel, and takes three times as long.
    ours.scores(policy, contents)
    spent: dict[str, float] = {}

    def told(name: str, owner: Any, attribute: str) -> None:
        work = getattr(owner, attribute)

        def wrapped(*arguments: Any, **options: Any) -> Any:
            begun = clock(settings.device)
            try:
                return work(*arguments, **options)
            finally:
                spent[name] = spent.get(name, 0.0) + clock(settings.device) - begun

        setattr(owner, attribute, wrapped)

    model: Any = ours.classifier.model
    told("the policy", language_model.LanguageModel, "begin")
    told("tokens", prompt_tokens.SafeTokenizer, "encode")
    for layer in model._model.model.layers:
        told("feed-forward", layer.mlp, "forward")
        told("attention, projections", layer.self_attn, "forward")
    inner = prefix_attention.attention

    def attention(*arguments: Any, **options: Any) -> Any:
        begun = clock(settings.device)
        try:
            return inner(*arguments, **options)
        finally:
            taken = clock(settings.device) - begun
            spent["attention, scores"] = spent.get("attention, scores", 0.0) + taken
            spent["attention, projections"] = spent.get("attention, projections", 0.0) - taken

    AttentionInterface.register(prefix_attention.NAME, attention)
    begun = clock(settings.device)
    ours.scores(policy, contents)
    taken = clock(settings.device) - begun
    spent["norms and the rest"] = taken - sum(
        seconds for name, seconds in spent.items() if name != "the policy"
    )
    print(f"{number} transcripts in {taken:.2f} s, {1000 * taken / number:.1f} ms each:")
    for name, each in spent.items():
        print(f"{name:24} {each:6.2f} s {each / taken:6.1%}")
    print("(the policy's time is part of the other steps')")
    return 0


def adapters(settings: ClassifySettings, number: int, rounds: int, policy_tokens: int) -> int:
    """Tell what the adapter costs beside the weights and within them; returns the exit status."""
    contents = transcripts(number)
    ours = {"beside": Ours(settings), "within": Ours(settings), "exact": Ours(settings)}
    base, adapter = find_classifier(settings)
    for side, owner in ours.items():
        owner.classifier.model = LanguageModel(
            base,
            adapter,
            settings.device,
            torch.float32 if side == "exact" else getattr(torch, settings.dtype),
            None if side == "exact" else settings.quantization,
        )
    for layer in ours["within"].classifier.model._model.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
    policy = cut_policy(ours["exact"].classifier.model.tokenizer, policy_tokens)
    exact = ours.pop("exact").scores(policy, contents)
    for side, owner in ours.items():
        times = []
        for _ in range(rounds):
            scores, taken = timed(partial(owner.scores, policy, contents))
            times.append(taken)
        pairs = [
            (a, b) for a, b in zip(scores, exact, strict=True) if a is not None and b is not None
        ]
        apart = sum(abs(a - b) for a, b in pairs) / len(pairs)
        print(
            f"adapter {side} the weights: {1000 * min(times) / number:.1f} ms a transcript, "
            f"scores {apart:.1e} from float32's on average"
        )
    return 0


def memory(settings: ClassifySettings, number: int) -> int:
    """Classify an archive of so many clips; returns the exit status."""
    some = transcripts(200)
    rows = (
        {"archive": "a.tar", "ordinal": n, "text": some[n % 200], "status": "ok"}
        for n in range(number)
    )
    policies = load_policies(REPOSITORY / "config" / "policies", ["scams"])
    sizes = [resident_bytes()]  # one each half second
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            sizes.append(resident_bytes())
            if len(sizes) % 60 == 0:
                progress(f"{sizes[-1] / 1e6:.0f} MB")

    with tempfile.TemporaryDirectory(prefix="bench-classify-") as name:
        folder = Path(name)
        write_table(folder / "transcripts", TRANSCRIPTS, rows, {})
        watcher = threading.Thread(target=watch)
        watcher.start()
        _, taken = timed(
            lambda: classify_archive(
                folder / "transcripts",
                folder / "classes",
                policies,
                settings,
                "p",
                folder / "parts",
            )
        )
        done.set()
        watcher.join()
    sizes.append(resident_bytes())
    fifth = max(1, len(sizes) // 5)
    early, late = max(sizes[:fifth]), max(sizes[fifth:])
    print(f"{number} transcripts in {taken:.0f} s")
    missed = []
    if late - early > MOST_GROWTH:
        missed.append(f"memory grew by {(late - early) / 1e6:.0f} MB")
    device = device_name(settings.device)
    result = Result("classify, memory", late / early, late / 1e6, early / 1e6, "MB", device)
    return finish(result, missed)


def screening(settings: ClassifySettings, number: int, rounds: int) -> int:
    """Compare a screen that lets a tenth through with none; returns the exit status."""
    policies = load_policies(REPOSITORY / "config" / "policies")
    ours, contents = Ours(settings), transcripts(number)
    screen = screening_policy(policies)
    scores = sorted(score or 0.0 for score in ours.scores(screen, contents))
    threshold = scores[-max(1, number // 10)]
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in contents]
    limits = ScreenSettings(threshold=threshold, audit_fraction=0.01)
    times: dict[str, list[float]] = {"with": [], "without": []}
    passes = {"without": number * len(policies)}
    for turn in range(rounds):
        begun = busy_seconds(settings.device)
        for policy in policies:
            ours.scores(policy, contents)
        times["without"].append(busy_seconds(settings.device) - begun)
        begun = busy_seconds(settings.device)
        found = [
            screened(score, sha256, limits)
            for score, sha256 in zip(ours.scores(screen, contents), hashes, strict=True)
        ]
        asked = [text for text, each in zip(contents, found, strict=True) if each.is_asked]
        for policy in policies:
            ours.scores(policy, asked)
        times["with"].append(busy_seconds(settings.device) - begun)
        passes["with"] = number + len(asked) * len(policies)
        said = ", ".join(f"{side} {each[-1]:.1f} s" for side, each in times.items())
        progress(f"round {turn + 1} of {rounds}: {said}")
    fastest = {side: min(each) for side, each in times.items()}
    for side, seconds in fastest.items():
        print(f"{side} the screen: {passes[side]} passes, {seconds:.1f} pass-seconds")
    ratio = fastest["without"] / fastest["with"]
    result = Result(
        "classify, screen",
        ratio,
        fastest["with"],
        fastest["without"],
        f"pass-seconds for {number} transcripts by {len(policies)} policies",
        device_name(settings.device),
    )
    missed = []
    if ratio < LEAST_BY_SCREEN:
        missed.append(f"the screen saves {ratio:.2f} times, wanted {LEAST_BY_SCREEN}")
    return finish(result, missed)


def clock(device: str) -> float:
    """Seconds, once the GPU has done all it was told."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def busy_seconds(device: str) -> float:
    """Seconds that the processor was busy; on a GPU those of the clock."""
    return clock(device) if device == "cuda" else time.process_time()


def main() -> int:
    """Measure; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    models = REPOSITORY / "demo" / "models"
    parser.add_argument("--model", help="(the demo's; with --screen one of random weights)")
    parser.add_argument("--adapter", default=str(models / "cope-demo"), help="(the demo's)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="(%(default)s)")
    parser.add_argument("--dtype", default="float32", help="(%(default)s)")
    parser.add_argument("--quantization", choices=["8bit", "4bit"], help="(none)")
    parser.add_argument("--batch-size", type=int, default=32, help="(%(default)s)")
    parser.add_argument("--policy-tokens", type=int, default=600, help="(%(default)s)")
    parser.add_argument("--transcripts", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="the fastest counts (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 2, help="(%(default)s)")
    parser.add_argument("--screen", action="store_true", help="six policies, with a screen")
    parser.add_argument("--profile", action="store_true", help="tell where the time goes")
    parser.add_argument("--adapter-apart", action="store_true", help="what the adapter costs")
    parser.add_argument("--memory", type=int, metavar="CLIPS", help="see whether memory grows")
    options = parser.parse_args()
    if min(options.batch_size, options.policy_tokens, options.transcripts, options.rounds) < 1:
        parser.error("at least one of each is needed")
    logging.basicConfig(level=logging.WARNING)
    settings = ClassifySettings(
        model=options.model or str(models / "gemma-demo"),
        adapter=options.adapter,
        device=options.device,
        dtype=options.dtype,
        quantization=options.quantization,
        batch_size=options.batch_size,
        threads=options.threads,
    )
    if options.profile:
        return profile(settings, options.transcripts, options.policy_tokens)
    if options.screen:
        with tempfile.TemporaryDirectory(prefix="bench-screen-") as folder:
            if options.model is None:
                model = write_gemma(narrow_gemma(), Path(folder) / "gemma", "cpu")
                settings = msgspec.structs.replace(settings, model=str(model), adapter=None)
            return screening(settings, options.transcripts, options.rounds)
    if options.memory:
        return memory(settings, options.memory)
    if options.adapter_apart:
        return adapters(settings, options.transcripts, options.rounds, options.policy_tokens)
    (whole, generated), missed = compare(
        settings, options.transcripts, options.rounds, options.policy_tokens
    )
    finish(whole, [])
    return finish(generated, missed)


if __name__ == "__main__":
    sys.exit(main())
