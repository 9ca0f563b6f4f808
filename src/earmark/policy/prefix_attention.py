"""Attention over a beginning that many texts share, without a copy of it for each.

A policy is three to five times as long as a transcript, and stands before it.  Its keys and
values are computed once, and every text of a batch attends to that one copy: the queries of
all texts go through a single matrix product with it.  (Cascade inference and Hydragen do
the same in kernels of their own: https://arxiv.org/abs/2402.05099.)

The module knows keys, values and positions; it is called by the layers of a model of
Transformers, whose attention interface it implements.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

#: Its name as Transformers' ``attn_implementation``.
NAME = "earmark_prefix"


@dataclass(frozen=True)
class Prefix:
    """What a model made of the beginning that texts share.

    Attributes:
        tokens: The beginning.
        keys: For each layer, of shape [1, key/value heads, tokens, head width].
        values: Likewise.
    """

    tokens: tuple[int, ...]
    keys: Sequence[Tensor]
    values: Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass
class Rest:
    """Where the tokens of a batch stand that follow a prefix; texts are padded on the left.

    Attributes:
        prefix: What they follow; None if nothing stands before them.
        keys: Positions of the keys of each text's own tokens, int64 of shape [texts, own
            tokens so far], and :data:`PADDING` for padding, which nothing attends to.
        queries: Positions of the tokens that go through the model now, the last of ``keys``.
    """

    prefix: Prefix | None
    keys: Tensor
    queries: Tensor
    _masks: dict[tuple[int | None, torch.dtype], tuple[Tensor | None, Tensor]] = field(
        default_factory=dict
    )

    def masks(self, window: int | None, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        """What to add to scores, the same for all layers of a kind.

        Args:
            window: So many tokens back, itself included, a token attends to; None for all.
            dtype: Of the scores.

        Returns:
            For the prefix, of shape [texts, 1, queries, tokens], or None if everything sees
            all of it; and for the texts' own tokens, likewise.  The values are 0 or the lowest
            number, which is finite: a token of padding may see nothing, and infinity would
            make NaN of it.
        """
        if (window, dtype) not in self._masks:
            before = None
            if self.prefix is not None and window is not None and window <= int(self.queries.max()):
                positions = torch.arange(len(self.prefix), device=self.keys.device)
                before = self._mask(positions[None], window, dtype)
            self._masks[window, dtype] = before, self._mask(self.keys, window, dtype)
        return self._masks[window, dtype]

    def _mask(self, keys: Tensor, window: int | None, dtype: torch.dtype) -> Tensor:
        keys, queries = keys[:, None, :], self.queries[:, :, None]
        seen = keys <= queries
        if window is not None:
            seen &= keys > queries - window
        mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        return mask.masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


#: Beyond every position, so that no token comes after it.
PADDING = 2**40


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # never there: no mask is made for an attention of one's own
    scaling: float,
    rest: Rest,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend to a shared prefix and to the text's own tokens, as one softmax over both.

    Args:
        module: The layer; its ``layer_idx`` finds the prefix's keys.
        query: Of shape [texts, heads, queries, head width].
        key: Of the texts' own tokens, [texts, key/value heads, own tokens, head width].
        value: Likewise.
        attention_mask: None.
        scaling: Of the scores.
        rest: Where the tokens stand.
        softcap: The scores' bound, as in Gemma 2 (https://arxiv.org/abs/2408.00118); or None.
        sliding_window: So many tokens back a token attends to; None for all.

    Returns:
        Of shape [texts, queries, heads, head width], and no weights.
    """
    texts, heads, queries = query.shape[:3]
    masks = rest.masks(sliding_window, query.dtype)
    layer: int = module.layer_idx
    prefix = None
    if rest.prefix is not None:
        prefix = rest.prefix.keys[layer][0], rest.prefix.values[layer][0]
    row = heads * (len(rest.prefix or ()) + key.shape[2])
    most = SCORES_TOGETHER[query.device.type]
    texts_step, queries_step = max(1, most // (row * queries)), max(1, most // row)
    outputs = []
    for at in range(0, texts, texts_step):
        some = slice(at, at + texts_step)
        blocks = []
        for first in range(0, queries, queries_step):
            block = slice(first, first + queries_step)
            blocks.append(
                _attend(
                    query[some, :, block],
                    key[some],
                    value[some],
                    prefix,
                    [None if mask is None else mask[some, :, block] for mask in masks],
                    scaling,
                    softcap,
                )
            )
        outputs.append(torch.cat(blocks, dim=2))
    return torch.cat(outputs).transpose(1, 2).contiguous(), None


#: So many scores of a batch are made at a time, of some texts or of some queries of a long one:
#: on a CPU as many as its cache holds, which is more than twice as fast as all at once; on a GPU
#: as many as fill it and cost little memory.
SCORES_TOGETHER = {"cpu": 2**20, "cuda": 2**27}


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix: tuple[Tensor, Tensor] | None,
    masks: Sequence[Tensor | None],
    scaling: float,
    softcap: float | None,
) -> Tensor:
    """Attention of some texts, of shape [texts, heads, queries, head width]."""
    texts, heads, queries, width = query.shape
    groups = key.shape[1]
    mask_of_prefix, mask_of_own = masks

    def masked(scores: Tensor, mask: Tensor | None) -> Tensor:
        if softcap is not None:
            scores.tanh_().mul_(softcap)
        if mask is not None:
            scores.view(texts, heads, queries, -1).add_(mask)
        return scores

    query = query * (scaling if softcap is None else scaling / softcap)
    # Heads that share keys and values lie side by side; they are rows of the same product.
    query = query.reshape(texts, groups, heads // groups * queries, width)
    scores = masked(torch.matmul(query, key.transpose(2, 3)), mask_of_own)
    if prefix is not None:
        before = masked(_on_one_copy(query, prefix[0].transpose(1, 2)), mask_of_prefix)
        scores = torch.cat([before, scores], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    output = torch.matmul(weights[..., -key.shape[2] :], value)
    if prefix is not None:
        output += _on_one_copy(weights[..., : -key.shape[2]], prefix[1])
    return output.view(texts, heads, queries, width)


def _on_one_copy(rows: Tensor, matrix: Tensor) -> Tensor:
    """Rows of all texts times a matrix that they share.

    Args:
        rows: Of shape [texts, groups, rows, n].
        matrix: Of shape [groups, n, m].

    Returns:
        Of shape [texts, groups, rows, m].
    """
    texts, groups, count, _ = rows.shape
    product = torch.matmul(rows.transpose(0, 1).reshape(groups, texts * count, -1), matrix)
    return product.view(groups, texts, count, -1).transpose(0, 1).contiguous()


AttentionInterface.register(NAME, attention)
