"""Prompts as tokens: those that all prompts of a policy begin with, and the rest of each.

A prompt's tokens are those of its whole text.  Texts that are tokenized apart may give others at
the seam: with most tokenizers a full stop and the line breaks behind it are one token.  So a
content is tokenized with what stands around it.  Of what stands before it the last lines are
enough, as long as the tokens at their end are the same as in the whole prompt: tokenizers read
from left to right, and no token crosses from a line break into a word.

Knows Transformers' tokenizers; knows nothing of models and policies.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

#: Contents of different kinds: what their prompts begin with alike, all prompts do.
_PROBES = ("a", "7", ".", "é")


class Prompt(NamedTuple):
    """What stands around a content.

    Attributes:
        before: The text before it.
        after: The text behind it.
        is_trusted: Whether control tokens that are spelt in both become such, as in a chat
            template.
    """

    before: str = ""
    after: str = ""
    is_trusted: bool = False


#: Nothing around a content.
ALONE = Prompt()


class SafeTokenizer:
    """A tokenizer that makes no control token of a content that spells one ("<eos>")."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a tokenizer.

        Args:
            tokenizer: Transformers', of the fast kind.
        """
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        # All that was added to the vocabulary beside text, declared special or not, except runs
        # of white space, which Gemma adds too and which stand for themselves.
        self._control = frozenset(
            token
            for spelling, token in tokenizer.get_added_vocab().items()
            if len(spelling) > 1 and spelling.strip(" \t\n\r▁")
        )

    def encode(self, content: str, prompt: Prompt = ALONE) -> list[int]:
        """Tokens of a content with a prompt around it.

        Args:
            content: The content; control tokens that it spells are cut behind their first
                character.
            prompt: What stands around it.
        """
        return [token for _, each in self._encodings(content, prompt) for token in each.ids]

    def fit(self, content: str, prompt: Prompt, most: int) -> list[int]:
        """Tokens of as much of a content as there is room for, with a prompt around it.

        Args:
            content: The content.
            prompt: What stands around it.
            most: Most tokens; without content it needs fewer.
        """
        while True:
            tokens: list[int] = []
            starts: list[int] = []
            for begin, each in self._encodings(content, prompt):
                tokens += each.ids
                starts += [begin + start for start, _ in each.offsets]
            over = len(tokens) - most
            if over <= 0 or not content:
                return tokens
            end = len(prompt.before) + len(content)
            last = [start for start in starts if start < end][-over:][0]
            content = content[: max(0, last - len(prompt.before))].rstrip()

    def _encodings(self, content: str, prompt: Prompt) -> Iterator[tuple[int, Any]]:
        """The encodings of the pieces of a text, each with where the piece begins."""
        text = prompt.before + content + prompt.after
        if not prompt.is_trusted:
            return self._pieces(text, 0, 0, len(text))
        start = len(prompt.before)
        return self._pieces(text, 0, start, start + len(content))

    def _pieces(self, text: str, at: int, start: int, stop: int) -> Iterator[tuple[int, Any]]:
        """Cut a text within the control tokens that begin from ``start`` to ``stop``.

        The tokenizer's own switch (``split_special_tokens``) would let through those of Gemma's
        that are not declared special.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        cuts = []
        if not self._control.isdisjoint(encoding.ids):
            cuts = [
                first + 1
                for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)
                if token in self._control and start <= first < stop and last - first > 1
            ]
        if not cuts:
            yield at, encoding
            return
        for first, last in zip([0, *cuts], [*cuts, len(text)], strict=True):
            yield from self._pieces(text[first:last], at + first, start - first, stop - first)


class Split(NamedTuple):
    """The tokens of one prompt.

    Attributes:
        begin: The first ones.
        rest: Those behind them, at least one.
        truncated: Whether the content's end was cut off.
    """

    begin: Sequence[int]
    rest: Sequence[int]
    truncated: bool


class SharedPrompts:
    """The prompts of a policy.

    Attributes:
        begin: Tokens that nearly all of them begin with.
        least: Tokens of the shortest one, with a content of one token.
        near: What a content is tokenized with; prompts that have it in common differ before it
            alone.
    """

    def __init__(self, tokenizer: SafeTokenizer, prompt: Prompt, heading: str) -> None:
        """Find out what the prompts begin with.

        Args:
            tokenizer: The tokenizer.
            prompt: What stands around each content.
            heading: The last lines before a content; a prompt without them is always tokenized
                as a whole.
        """
        self._tokenizer, self._whole = tokenizer, prompt
        whole = [tokenizer.encode(probe, prompt) for probe in _PROBES]
        self.least = min(map(len, whole))
        self.begin = _common(whole)
        self.near, self._lead = prompt, self.begin
        if prompt.before.endswith(heading):
            near = [tokenizer.encode(probe, prompt._replace(before=heading)) for probe in _PROBES]
            lead = _common(near)
            rests = [tokens[len(self.begin) :] for tokens in whole]
            if lead[-1:] == self.begin[-1:] and [tokens[len(lead) :] for tokens in near] == rests:
                self.near, self._lead = prompt._replace(before=heading), lead

    def tokens_near(self, content: str) -> "array[int]":
        """Tokens of a content with :attr:`near` around it."""
        # As an array: a list of Python's integers takes ten times the memory.
        return array("i", self._tokenizer.encode(content, self.near))

    def split(self, content: str, near: "array[int]", most: int) -> Split:
        """The prompt of a content.

        Args:
            content: The content.
            near: Its :meth:`tokens_near`.
            most: Most tokens of a prompt, at least :attr:`least`.
        """
        lead = len(self._lead)
        elsewhere = len(self.begin) - lead
        truncated = elsewhere + len(near) > most
        if truncated:
            near = array("i", self._tokenizer.fit(content, self.near, most - elsewhere))
        if self.begin and len(near) > lead and near[:lead].tolist() == self._lead:
            return Split(self.begin, near[lead:], truncated)
        whole = self._tokenizer.fit(content, self._whole, most)
        return Split(whole[:-1], whole[-1:], truncated)


def _common(lists: Sequence[list[int]]) -> list[int]:
    """What all lists begin with."""
    steps = zip(*lists, strict=False)
    return [first for first, *_ in takewhile(lambda step: len(set(step)) == 1, steps)]
