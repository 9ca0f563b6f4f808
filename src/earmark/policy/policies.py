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

import msgspec
import yaml

from earmark import strict_yaml
from earmark.errors import SetupError

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

#: Lies beside the policies of a set.
EXAMPLES_FILE = "examples.yaml"

_CATEGORY = re.compile(r"[a-z0-9-]+")
_TITLE = re.compile(r"^# +(.+?) *$", re.MULTILINE)
_LABELS_SECTION = re.compile(
    r"^## +Definition of Labels *\n(?P<labels>.*?)(?=^##? |\Z)", re.MULTILINE | re.DOTALL
)
_LABEL_WITH_INCLUDES = re.compile(
    r"^### +\S.*\n(?:(?!#{1,3} ).*\n)*?#### +Includes *\n\s*[-*] +\S", re.MULTILINE
)


class Examples(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A clear case on each side of a policy.

    Attributes:
        flagged: A text that falls under it.
        not_flagged: A text that doesn't.
    """

    flagged: str
    not_flagged: str


@dataclass(frozen=True)
class Policy:
    """One written policy.

    Attributes:
        category: The file's stem; names the policy's rows, ``[a-z0-9-]+``.
        title: The first heading, for people.
        text: The whole policy as it goes into the prompt, without surrounding
            blank lines, line breaks as line feeds.
        sha256: Of ``text`` in UTF-8, hexadecimal.
        examples: What a classifier is checked by; no part of what the set is.
    """

    category: str
    title: str
    text: str
    sha256: str
    examples: Examples | None = None


def load_policies(folder: Path, categories: Collection[str] | None = None) -> tuple[Policy, ...]:
    """Read and check the policies of a folder, one ``{category}.md`` each.

    Args:
        folder: The folder; of files that don't end in ``.md`` only :data:`EXAMPLES_FILE` counts.
        categories: The categories to keep; None keeps all.

    Returns:
        The policies in the order of their categories' names.

    Raises:
        SetupError: the folder is missing or holds no policy, a file is not a policy, a
            wanted category has no file, or the examples can't be read or belong to no policy.
    """
    if not folder.is_dir():
        raise SetupError(
            f"there is no folder of policies at {folder}; create it or correct its path"
        )
    files = {path.stem: path for path in sorted(folder.glob("*.md"))}
    if not files:
        raise SetupError(f"{folder} holds no policy; add one as {folder}/{{category}}.md")
    if categories is None:
        categories = files
    elif unknown := sorted(set(categories) - set(files)):
        raise SetupError(
            f"no policy for {', '.join(unknown)} in {folder}; known are {', '.join(files)}"
        )
    elif not categories:
        raise SetupError(f"no category is chosen; choose among {', '.join(files)}")
    examples = _read_examples(folder / EXAMPLES_FILE)
    if strangers := sorted(examples.keys() - files.keys()):
        raise SetupError(
            f"{folder / EXAMPLES_FILE} has examples of {', '.join(strangers)}, for which there is "
            f"no policy in {folder}; known are {', '.join(files)}"
        )
    return tuple(
        _read_policy(path, examples.get(stem)) for stem, path in files.items() if stem in categories
    )


def _read_examples(path: Path) -> dict[str, Examples]:
    if not path.exists():
        return {}
    try:
        said = strict_yaml.load(path.read_text(encoding="utf-8-sig"))
        found = msgspec.convert(said, dict[str, Examples])
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise SetupError(
            f"{path} can't be read ({reason}); for each policy it has the keys flagged and "
            "not_flagged with a text each, as in config/policies/examples.yaml"
        ) from error
    for category, pair in found.items():
        if not pair.flagged.strip() or not pair.not_flagged.strip():
            raise SetupError(f"{path} has an empty example of {category}; write a text for it")
    return found


def _read_policy(path: Path, examples: Examples | None) -> Policy:
    if not _CATEGORY.fullmatch(path.stem):
        raise SetupError(
            f"{path} would make a category {path.stem!r}; rename it to lower-case letters, "
            "digits and hyphens"
        )
    try:
        # utf-8-sig: an editor's byte order mark is not part of the policy.
        text = path.read_text(encoding="utf-8-sig").strip()
    except OSError as error:
        raise SetupError(
            f"policy {path} can't be read ({error.strerror}); check that it is a readable file"
        ) from error
    except UnicodeDecodeError as error:
        raise SetupError(f"policy {path} is not UTF-8 text; save it as UTF-8") from error
    if not text:
        raise SetupError(f"policy {path} is empty; write it or remove the file")
    section = _LABELS_SECTION.search(text + "\n")
    if section is None:
        raise SetupError(
            f"policy {path} has no section '## Definition of Labels'; add it as in "
            "config/policies/scams.md"
        )
    if not _LABEL_WITH_INCLUDES.search(section["labels"]):
        raise SetupError(
            f"policy {path} defines no label; under '## Definition of Labels' add a heading "
            "'### (XX): Name' and below it '#### Includes' with at least one '- ' line"
        )
    title = _TITLE.search(text)
    return Policy(
        category=path.stem,
        title=title[1] if title else path.stem,
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        examples=examples,
    )


def labels_of(policy: Policy) -> str:
    """A policy's labels, without the heading of their section."""
    section = _LABELS_SECTION.search(policy.text + "\n")
    if section is None:
        raise ValueError(f"policy {policy.category} has no section of labels")
    return section["labels"].strip()


def not_checked(policies: Iterable[Policy]) -> str | None:
    """Which policies have no example to check a classifier by, in a sentence; None if all have."""
    without = [policy.category for policy in policies if policy.examples is None]
    if not without:
        return None
    return (
        f"the classifier can't be checked by policies without examples in {EXAMPLES_FILE} "
        f"(docs/policies.md): {', '.join(without)}"
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
