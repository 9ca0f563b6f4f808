"""One question asked in place of all policies' own; most clips need no other.

CoPE's prompt asks whether a content meets ANY of a policy's labels.  So a *screening policy* that
holds the labels of all policies asks once, and only clips that score at least a threshold go on to
each policy.  Of the rest a random share does too, drawn by content like all draws: what the screen
misses is measured, and estimates of prevalence stay unbiased.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from earmark.ingest.selection import uniform
from earmark.policy.policies import Policy, labels_of
from earmark.settings import SCREEN, ClassifySettings, ScreenSettings

_TEXT = """\
# Any Harm

## Overview

Content falls under this policy if one sentence of it meets, or may meet, the criteria of any label.

## Definition of Labels

{labels}"""
_EXCLUDES = re.compile(r"^#### +Excludes *\n(?:(?!#{1,4} ).*\n?)*", re.MULTILINE)


class Screened(NamedTuple):
    """What a screen makes of a clip.

    Attributes:
        score: Of the screening policy, 0..1; None if it was not asked, or had no answer.
        probability: With which the policies are asked about the clip, given that score.
        is_asked: Whether they are.
    """

    score: float | None = None
    probability: float = 1.0
    is_asked: bool = True


#: A clip that goes through all policies without a screen.
UNSCREENED = Screened()


def screening_policy(policies: Sequence[Policy]) -> Policy:
    """The policy that asks for any label of a set.

    What labels exclude is left out: that is for the policies to say, and a screen that knows less
    of it misses less, and is read faster.

    Args:
        policies: The set.
    """
    labels = (_EXCLUDES.sub("", labels_of(policy)).strip() for policy in policies)
    text = _TEXT.format(labels="\n\n".join(labels))
    return Policy(SCREEN, "Any Harm", text, hashlib.sha256(text.encode()).hexdigest())


def with_screen(policies: Sequence[Policy], settings: ClassifySettings) -> tuple[Policy, ...]:
    """All that a classifier is asked: the policies, behind the screening policy if there is one."""
    return (*((screening_policy(policies),) if settings.screen else ()), *policies)


def screened(score: float | None, sha256: str, settings: ScreenSettings) -> Screened:
    """Whether the policies are asked about a clip.

    Args:
        score: Of the screening policy; a clip for which it has no answer goes through all.
        sha256: Of the clip's content, hexadecimal.
        settings: The threshold, and the share of the rest.
    """
    if score is None or score >= settings.threshold:
        return Screened(score)
    fraction = settings.audit_fraction
    return Screened(score, fraction, uniform(sha256, "screen audit") < fraction)
