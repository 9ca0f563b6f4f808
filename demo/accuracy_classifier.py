"""How often the demo's classifier is right, on sentences it was never trained on.

The texts go through `earmark.policy.classifier.Classifier`, as in the workflow.
"""

import random
from pathlib import Path

from demo.training import sentences
from demo.training.classifier_data import HARMLESS, MIXED, draw_post, pools
from earmark import REPOSITORY
from earmark.policy.classifier import Classifier
from earmark.policy.policies import load_policies
from earmark.settings import ClassifySettings

MODEL = REPOSITORY / "demo" / "models" / "gemma-demo"
ADAPTER = REPOSITORY / "demo" / "models" / "cope-demo"
POLICIES = REPOSITORY / "config" / "policies"

#: Sentences in a text: a single one, and as many as are spoken in a clip of 60 s.
LENGTHS = {"sentence": (1, 1), "clip": (18, 24)}


def classifier_accuracy(
    model: Path = MODEL, adapter: Path = ADAPTER, texts: int = 30
) -> dict[str, dict[str, float]]:
    """Measure the classifier on held-out sentences, some words of which are misheard.

    All policies judge all texts: for each category texts with a sentence (or a few) that it
    flags among any others, and as many texts of harmless sentences only.

    Args:
        model: Folder of the base.
        adapter: Folder of the adapter.
        texts: Texts for each category, and harmless ones, of each length.

    Returns:
        For each length of text: the share of right answers of each category and ``overall``,
        and ``harmless_flagged``, the share of harmless texts that any category flags.
    """
    classifier = Classifier(
        ClassifySettings(
            model=str(model),
            adapter=str(adapter),
            device="cpu",
            quantization=None,
            dtype="float32",
            batch_size=8,
        )
    )
    known = pools(held_out=True)
    rng = random.Random(99)
    figures = {}
    for length, (fewest, most) in LENGTHS.items():
        posts = [
            draw_post(rng, known, rng.randint(fewest, most), MIXED, planted=category)
            for category in sentences.CATEGORIES
            for _ in range(texts)
        ]
        harmless = range(len(posts), len(posts) + texts)
        posts += [draw_post(rng, known, rng.randint(fewest, most), HARMLESS) for _ in harmless]
        written = [post.text for post in posts]
        flags = {
            policy.category: [
                answer.score is not None and answer.score >= 0.5
                for _, answer in sorted(classifier.classify(policy, written))
            ]
            for policy in load_policies(POLICIES, sentences.CATEGORIES)
        }
        shares = {
            category: sum(
                flag == post.holds(category) for flag, post in zip(answers, posts, strict=True)
            )
            / len(posts)
            for category, answers in flags.items()
        }
        shares["overall"] = sum(shares.values()) / len(shares)
        flagged = [any(answers[index] for answers in flags.values()) for index in harmless]
        shares["harmless_flagged"] = sum(flagged) / texts
        figures[length] = {name: round(share, 4) for name, share in shares.items()}
    return figures
