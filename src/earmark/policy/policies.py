"""Written policies, and the prompt that asks a model whether a text falls under one.

A policy is a Markdown file in the format CoPE-A was trained on: a title, an overview, the
definition of terms, the interpretation of language, and the definition of labels, each
label with what it includes and excludes.  The module knows the files and the prompt; it
knows nothing of tokens, models and thresholds (see :mod:`earmark.policy.classifier`).
"""

import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from earmark.errors import EarmarkError

#: CoPE-A's prompt, letter for letter as on its model card
#: (https://huggingface.co/zentropi-ai/cope-a-9b); there is no chat template.
PROMPT = """\
INSTRUCTIONS
============

Examine the given POLICY and determine if the given CONTENT meets the criteria for ANY of \
the LABELS. Answer "1" if yes, and "0" if no.


POLICY
======

{policy}


CONTENT
=======

{content}


ANSWER
======

"""
#: What stands between policy and content, in both prompts.
HEADING = PROMPT.partition("{policy}")[2].partition("{content}")[0]
PROMPT_SHA256 = hashlib.sha256(PROMPT.encode()).hexdigest()

#: What an instruction-tuned model is asked: the first design's question, one policy at a time.
JSON_PROMPT = """\
Examine whether the CONTENT, a transcript of speech, falls under the POLICY. The policy's \
category is "{category}".


POLICY
======

{policy}


CONTENT
=======

{content}


ANSWER
======

Respond with JSON only: {"flagged": true or false, "score": 0.0 to 1.0, "category": \
"{category}" or null}, where "score" is the probability that the content falls under the policy.

"""
JSON_PROMPT_SHA256 = hashlib.sha256(JSON_PROMPT.encode()).hexdigest()

_CATEGORY = re.compile(r"[a-z0-9-]+")
_TITLE = re.compile(r"^# +(.+?) *$", re.MULTILINE)
_LABELS_SECTION = re.compile(
    r"^## +Definition of Labels *\n(?P<labels>.*?)(?=^##? |\Z)", re.MULTILINE | re.DOTALL
)
_LABEL_WITH_INCLUDES = re.compile(
    r"^### +\S.*\n(?:(?!#{1,3} ).*\n)*?#### +Includes *\n\s*[-*] +\S", re.MULTILINE
)


@dataclass(frozen=True)
class Policy:
    """One written policy.

    Attributes:
        category: The file's stem; names the policy's rows, ``[a-z0-9-]+``.
        title: The first heading, for people.
        text: The whole policy as it goes into the prompt, without surrounding
            blank lines, line breaks as line feeds.
        sha256: Of ``text`` in UTF-8, hexadecimal.
    """

    category: str
    title: str
    text: str
    sha256: str


def load_policies(folder: Path, categories: Collection[str] | None = None) -> tuple[Policy, ...]:
    """Read and check the policies of a folder, one ``{category}.md`` each.

    Args:
        folder: The folder; files that don't end in ``.md`` are ignored.
        categories: The categories to keep; None keeps all.

    Returns:
        The policies in the order of their categories' names.

    Raises:
        EarmarkError: the folder is missing or holds no policy, a file is not a policy, or a
            wanted category has no file.
    """
    if not folder.is_dir():
        raise EarmarkError(
            f"there is no folder of policies at {folder}; create it or correct its path"
        )
    files = {path.stem: path for path in sorted(folder.glob("*.md"))}
    if not files:
        raise EarmarkError(f"{folder} holds no policy; add one as {folder}/{{category}}.md")
    if categories is None:
        categories = files
    elif unknown := sorted(set(categories) - set(files)):
        raise EarmarkError(
            f"no policy for {', '.join(unknown)} in {folder}; known are {', '.join(files)}"
        )
    elif not categories:
        raise EarmarkError(f"no category is chosen; choose among {', '.join(files)}")
    return tuple(_read_policy(path) for stem, path in files.items() if stem in categories)


def _read_policy(path: Path) -> Policy:
    if not _CATEGORY.fullmatch(path.stem):
        raise EarmarkError(
            f"{path} would make a category {path.stem!r}; rename it to lower-case letters, "
            "digits and hyphens"
        )
    try:
        # utf-8-sig: an editor's byte order mark is not part of the policy.
        text = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise EarmarkError(
            f"policy {path} can't be read ({error.strerror}); check that it is a readable file"
        ) from error
    except UnicodeDecodeError as error:
        raise EarmarkError(f"policy {path} is not UTF-8 text; save it as UTF-8") from error
    if not text:
        raise EarmarkError(f"policy {path} is empty; write it or remove the file")
    section = _LABELS_SECTION.search(text + "\n")
    if section is None:
        raise EarmarkError(
            f"policy {path} has no section '## Definition of Labels'; add it as in "
            "config/policies/scams.md"
        )
    if not _LABEL_WITH_INCLUDES.search(section["labels"]):
        raise EarmarkError(
            f"policy {path} defines no label; under '## Definition of Labels' add a heading "
            "'### (XX): Name' and below it '#### Includes' with at least one '- ' line"
        )
    title = _TITLE.search(text)
    return Policy(
        category=path.stem,
        title=title[1] if title else path.stem,
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
    )


def texts_of(policies: Iterable[Policy]) -> dict[str, str]:
    """The policies of a set by category, in full."""
    return {policy.category: policy.text for policy in policies}


def set_sha256(policies: Sequence[Policy]) -> str:
    """SHA-256 (hexadecimal) that changes with any category or text, not with the order."""
    lines = sorted(f"{policy.category} {policy.sha256}\n" for policy in policies)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def prompt_sha256(answer: str) -> str:
    """SHA-256 (hexadecimal) of the prompt that asks for an answer, ``logits`` or ``json``."""
    return PROMPT_SHA256 if answer == "logits" else JSON_PROMPT_SHA256


def prompt_around(policy_text: str) -> tuple[str, str]:
    """The prompt before and after the content.

    Content can be cut to length without touching them.
    """
    before, after = PROMPT.split("{content}")
    return before.replace("{policy}", policy_text), after


def json_prompt_around(policy: Policy) -> tuple[str, str]:
    """The prompt for a JSON answer before and after the content."""
    before, after = JSON_PROMPT.replace("{category}", policy.category).split("{content}")
    return before.replace("{policy}", policy.text), after


def one_line(content: str) -> str:
    """Content as it goes into the prompt: each run of white space is one space.

    The prompt's sections are told apart by line breaks alone, so content on one line can't
    pose as another section.  Speech has no line breaks to lose.
    """
    return " ".join(content.split())
