"""A language model whose texts share their beginning.

Knows tokens, batches and what the model says next; knows nothing of policies and of what
the next word means (:mod:`earmark.policy.classifier`).  The beginning is computed once
(:mod:`earmark.policy.prefix_attention`); only the state of the last token goes through the model's
head, and of the head only the words that matter: the logits of Gemma's 256,000 words for all
tokens would not fit a GPU.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    DynamicCache,
)
from transformers.modeling_utils import no_init_weights

from earmark.errors import SetupError
from earmark.models.inventory import Found
from earmark.policy.prefix_attention import NAME, PADDING, Prefix, Rest
from earmark.policy.prompt_tokens import SafeTokenizer

#: Stands for no token, behind what a model wrote.
_NOTHING = -1


@dataclass(frozen=True)
class Continuation:
    """What a model wrote.

    Attributes:
        text: Without control tokens.
        is_sound: Whether the model's logits were numbers all along.
    """

    text: str
    is_sound: bool


class LanguageModel:
    """A loaded base model with its adapter.

    Attributes:
        longest: Most tokens that it can read.
        multiple: Of so many tokens the beginning of texts is best, and texts are padded to.
        tokenizer: Transformers' tokenizer.
        safe_tokenizer: The same for texts from outside.
    """

    def __init__(
        self,
        base: Found,
        adapter: Found | None,
        device: str,
        dtype: torch.dtype,
        quantization: str | None,
        int8_threshold: float = 6.0,
    ) -> None:
        """Load tokenizer, base and adapter.

        Args:
            base: The base model.
            adapter: A PEFT adapter on top of it.
            device: ``cuda`` or ``cpu``.
            dtype: Of the weights that are not quantized.
            quantization: ``8bit`` or ``4bit`` (bitsandbytes), or None.
            int8_threshold: From which input on a layer of 8 bits multiplies in 16.

        Raises:
            SetupError: a weight is missing or isn't used, of the base or of the adapter.
            OSError: a file can't be read.
            ValueError: a file holds something else.
        """
        config: Any = AutoConfig.from_pretrained(base.folder)
        self.longest: int = config.max_position_embeddings
        self.tokenizer: Any = AutoTokenizer.from_pretrained(base.folder)
        self.safe_tokenizer = SafeTokenizer(self.tokenizer)
        _check_shapes(base.folder, config)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base.folder,
            dtype=dtype,
            quantization_config=quantization_config(quantization, dtype, int8_threshold),
            device_map={"": device},
            attn_implementation=NAME,
            output_loading_info=True,
        )
        model, told = loaded
        _check_whole(f"classify.model {base.folder}", told)
        if adapter is not None:
            from peft import PeftModel  # slow, and talkative until logging is set up
            from peft.tuners.tuners_utils import BaseTunerLayer

            # By a map that names the CPU, PEFT would lay the layers out anew over all devices.
            del model.hf_device_map
            adapted: Any = PeftModel.from_pretrained(model, adapter.folder, torch_device=device)
            inner = adapted.get_base_model()
            words = (inner.get_input_embeddings(), inner.get_output_embeddings())
            if any(isinstance(layer, BaseTunerLayer) for layer in words):
                raise SetupError(
                    f"classify.adapter {adapter.folder} changes how words are read or written "
                    "(embeddings, lm_head); Earmark takes adapters of the layers between"
                )
            _check_used(adapted, adapter.folder)
            # Merged, it saves its own products in each layer; but quantized weights would be
            # rounded once more (figures are in benchmarks/README.md).
            model = adapted.merge_and_unload() if quantization is None else inner
            if quantization is not None:
                _cast_adapter(inner, _products(quantization, dtype))
        if _products(quantization, dtype) != dtype:
            _work_in_half(model.get_decoder().layers, dtype)
        self._model = model.eval()
        self._device = device
        # A GPU multiplies matrices slowly whose sides are odd.
        self.multiple = 8 if device == "cuda" else 1

    def begin(self, tokens: Sequence[int]) -> Prefix:
        """Compute the beginning that texts share.

        Args:
            tokens: At least one.
        """
        cache = DynamicCache()
        self._states([list(tokens)], None, cache)
        layers: Any = cache.layers
        return Prefix(
            tuple(tokens), [layer.keys for layer in layers], [layer.values for layer in layers]
        )

    @torch.inference_mode()
    def next_logits(
        self, prefix: Prefix, texts: Sequence[Sequence[int]], words: Sequence[int]
    ) -> Tensor:
        """Logits of some words as the next one of each text.

        Args:
            prefix: What stands before each text.
            texts: Tokens of each text, at least one.
            words: Tokens to tell the logits of.

        Returns:
            float32 of shape [texts, words], on the CPU.
        """
        states = self._states(texts, prefix, None)
        head = self._model.get_output_embeddings()
        # A product with the rows of these words alone (the head is never quantized), and in
        # float32: in bfloat16 two logits near 20 are told apart by no less than 0.125.
        rows = head.weight[list(words)].float()
        bias = None if head.bias is None else head.bias[list(words)].float()
        return self._capped(torch.nn.functional.linear(states.float(), rows, bias)).cpu()

    @torch.inference_mode()
    def continuations(
        self, prefix: Prefix, texts: Sequence[Sequence[int]], most: int, end: str
    ) -> list[Continuation]:
        """Write on from each text, always the likeliest word.

        Args:
            prefix: What stands before each text.
            texts: Tokens of each text, at least one.
            most: Most tokens to write.
            end: A character behind which nothing more is wanted.

        Returns:
            One for each text; it ends with the first token that holds ``end``, or before a
            token with which the model ends.
        """
        head = self._model.get_output_embeddings()
        last = torch.cat([self._ends(), self._tokens_with(end)])
        cache = DynamicCache()
        written: list[Tensor] = []
        sound = torch.ones(len(texts), dtype=torch.bool)
        finished = torch.zeros(len(texts), dtype=torch.bool)
        step: Sequence[Sequence[int]] = texts
        keys: Tensor | None = None
        while len(written) < most and not finished.all():
            states, keys = self._step(step, prefix, cache, keys)
            best = head(states).float().max(dim=-1)
            sound &= best.values.isfinite().cpu()
            words = best.indices.cpu()
            written.append(words.where(~finished, _NOTHING))
            finished |= torch.isin(words, last)
            step = words[:, None].tolist()
        rows = torch.stack(written, dim=1).tolist()
        return [
            Continuation(
                self.tokenizer.decode(
                    [token for token in row if token != _NOTHING], skip_special_tokens=True
                ),
                bool(is_sound),
            )
            for row, is_sound in zip(rows, sound, strict=True)
        ]

    @torch.inference_mode()
    def _states(
        self, texts: Sequence[Sequence[int]], prefix: Prefix | None, cache: DynamicCache | None
    ) -> Tensor:
        """The state of each text's last token, of shape [texts, width]."""
        return self._step(texts, prefix, cache, None)[0]

    def _step(
        self,
        texts: Sequence[Sequence[int]],
        prefix: Prefix | None,
        cache: DynamicCache | None,
        keys: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Send tokens through the model.

        Args:
            texts: The tokens; padded on the left to the longest.
            prefix: What stands before all of them.
            cache: Keeps keys and values of the texts' own tokens.
            keys: Positions of what the cache holds, if anything.

        Returns:
            States of the last tokens, of shape [texts, width], and positions of all own tokens.
        """
        width = max(map(len, texts))
        if keys is None:
            width += -width % self.multiple
        tokens = torch.zeros((len(texts), width), dtype=torch.long)  # any: nothing attends to it
        positions = torch.full((len(texts), width), PADDING)
        starts = [len(prefix or ())] * len(texts)
        if keys is not None:
            starts = (keys[:, -1] + 1).tolist()
        for row, text in enumerate(texts):
            tokens[row, width - len(text) :] = torch.tensor(text)
            positions[row, width - len(text) :] = torch.arange(len(text)) + starts[row]
        positions = positions.to(self._device)
        queries = positions.where(positions < PADDING, 0)
        keys = positions if keys is None else torch.cat([keys, positions], dim=1)
        states = self._model.get_decoder()(
            input_ids=tokens.to(self._device),
            position_ids=queries,
            past_key_values=cache,
            use_cache=cache is not None,
            rest=Rest(prefix, keys, queries),
        ).last_hidden_state
        return states[:, -1], keys

    def _capped(self, logits: Tensor) -> Tensor:
        cap = getattr(self._model.config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _ends(self) -> Tensor:
        """Tokens with which the model ends."""
        ends = self._model.generation_config.eos_token_id
        known = [*(ends if isinstance(ends, list) else [ends]), self.tokenizer.eos_token_id]
        return torch.tensor([token for token in known if token is not None], dtype=torch.long)

    def _tokens_with(self, character: str) -> Tensor:
        vocabulary = self.tokenizer.get_vocab().items()
        tokens = [token for spelling, token in vocabulary if character in spelling]
        return torch.tensor(tokens, dtype=torch.long)


def _check_whole(what: str, told: dict[str, Any]) -> None:
    """Check that a model has all weights that it needs, and needs all that it has.

    Args:
        what: The model, for a sentence.
        told: What Transformers tells of loading it.

    Raises:
        SetupError: it hasn't, or doesn't.
    """
    faults = {
        "lacks": told["missing_keys"],
        "has, but doesn't use": told["unexpected_keys"],
        "has in another shape": [key for key, *_ in told["mismatched_keys"]],
    }
    for fault, keys in faults.items():
        if keys:
            raise SetupError(
                f"{what} {fault} {len(keys)} of its weights, such as {min(keys)}; it would answer "
                "like another model: put a whole one there, or choose another"
            )


def _check_shapes(folder: str, config: Any) -> None:
    """Check that a base model's files hold each matrix that it needs, as large as it needs it.

    Before they are loaded: bitsandbytes quantizes a matrix of any shape.

    Raises:
        SetupError: one is missing, or has another shape.
    """
    if getattr(config, "quantization_config", None):
        return  # its weights are stored in another form
    there: dict[str, list[int]] = {}
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            there |= {key: weights.get_slice(key).get_shape() for key in weights.keys()}  # noqa: SIM118
    if not there:
        return  # pickled
    # As from_pretrained does; on the device "meta", PyTorch would import its compiler for this.
    with init_empty_weights(), no_init_weights():
        model = AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    prefix = model.base_model_prefix
    if not any(key.startswith(prefix) for key in there):  # a model that was saved without its head
        there = {f"{prefix}.{key}": shape for key, shape in there.items()}
    shapes = {key: list(weight.shape) for key, weight in model.named_parameters()}
    told = {
        "missing_keys": list(shapes.keys() - there.keys()),
        "unexpected_keys": [],
        "mismatched_keys": [(k,) for k in shapes.keys() & there.keys() if shapes[k] != there[k]],
    }
    _check_whole(f"classify.model {folder}", told)


def _check_used(adapted: Any, folder: str) -> None:
    """Check that an adapter's weights are those that lie in its folder, all of them.

    PEFT warns of what it doesn't find, and says nothing of what it doesn't use.

    Args:
        adapted: The model with its adapter, as PEFT loaded it.
        folder: Where the adapter lies.

    Raises:
        SetupError: weights are missing, aren't used, or are others in the model.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    told = json.loads((Path(folder) / "adapter_config.json").read_text(encoding="utf-8"))
    known = type(adapted.peft_config["default"]).__dataclass_fields__
    if unknown := sorted(key for key, value in told.items() if value and key not in known):
        raise SetupError(
            f"classify.adapter {folder} has options that this version of PEFT leaves out "
            f"({', '.join(unknown)} in adapter_config.json); update Earmark or choose another"
        )
    used = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    there = load_peft_weights(folder, device="cpu")
    other = [
        key
        for key in used.keys() & there.keys()
        if not torch.equal(there[key].to(used[key].dtype), used[key].cpu())
    ]
    differences = {
        "missing_keys": list(used.keys() - there.keys()),
        "unexpected_keys": list(there.keys() - used.keys()),
        "mismatched_keys": [(key,) for key in other],
    }
    _check_whole(f"classify.adapter {folder}", differences)


def _products(quantization: str | None, dtype: torch.dtype) -> torch.dtype:
    """What layers with quantized weights work in: bitsandbytes multiplies 8 bits in float16."""
    return torch.float16 if quantization == "8bit" and dtype == torch.bfloat16 else dtype


def _cast_adapter(model: Any, dtype: torch.dtype) -> None:
    """Keep an adapter beside quantized weights as they work; PEFT makes float32 of it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            for name in layer.adapter_layer_names:
                getattr(layer, name).to(dtype)


def _work_in_half(layers: Any, dtype: torch.dtype) -> None:
    """Let attention and feed-forward work in float16, and add what they say up in ``dtype``.

    bitsandbytes would cast the input of each matrix to float16, and the output back, with a
    warning each time.  It makes float16 of both in any case, so nothing overflows that would not;
    the sums of all layers, which might, stay as they are.
    """

    def cast(value: Any, to: torch.dtype) -> Any:
        if isinstance(value, tuple):
            return tuple(cast(each, to) for each in value)
        is_number = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(to) if is_number else value

    def enter(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        half = torch.float16
        return cast(args, half), {name: cast(each, half) for name, each in kwargs.items()}

    def leave(_: Any, __: Any, output: Any) -> Any:
        return cast(output, dtype)

    for layer in layers:
        for part in (layer.self_attn, layer.mlp):
            part.register_forward_pre_hook(enter, with_kwargs=True)
            part.register_forward_hook(leave)


def quantization_config(
    name: str | None, dtype: torch.dtype, int8_threshold: float = 6.0
) -> BitsAndBytesConfig | None:
    """How bitsandbytes quantizes a model, as Transformers is told.

    Args:
        name: ``8bit``, ``4bit`` or None.
        dtype: What 4-bit weights are multiplied in.
        int8_threshold: From which input on a layer of 8 bits multiplies in 16.
    """
    if name is None:
        return None
    return BitsAndBytesConfig(
        load_in_8bit=name == "8bit",
        load_in_4bit=name == "4bit",
        llm_int8_threshold=int8_threshold,
        # QLoRA's choice; bitsandbytes' own default is FP4 that is multiplied in float32.
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
    )
