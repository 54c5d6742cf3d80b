"""What a decoder-only transformer needs: weights by type, the cache of keys and values, and the cards it fits on. Pure.

Weights are counted from the architecture (Touvron et al., Llama 2, 2023; grouped-query attention: Ainslie et al.,
2023). A token's cache is `2 * layers * kv_heads * head_size` numbers, a key and a value for each layer and KV head.
Tensor parallelism cuts every matrix and the KV heads of a layer into equal parts, and copies the norms (Shoeybi et al.,
Megatron-LM, 2019); pipeline parallelism gives each stage some of the layers, the first one the embedding, the last one
the head. Activations are small beside these when decoding, and are in the share of a card that is left free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from models.cards import USABLE, Card
from models.errors import PlanError

BITS: Final[Mapping[str, int]] = {"fp32": 32, "fp16": 16, "bf16": 16, "fp8": 8, "int8": 8, "int4": 4}
QUANTIZED: Final = frozenset({"int8", "int4"})
# A group of quantized weights shares a scale of 16 bits and a zero of the weights' own width (GPTQ, AWQ).
_SCALE_BITS: Final = 16
_FAMILIES: Final = ("llama", "mistral", "qwen2", "qwen3")
_WAYS: Final = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Transformer:
    """An architecture. `tied`: embedding and head are one matrix. Raises `PlanError` naming what makes no sense.

    A layer has matrices for queries, keys, values and the output, three of a gated feed-forward network, and two norms.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    intermediate: int
    vocabulary: int
    tied: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "hidden", "heads", "kv_heads", "head_size", "intermediate", "vocabulary"):
            if getattr(self, name) < 1:
                raise PlanError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        if self.heads % self.kv_heads:
            raise PlanError(f"kv_heads: {self.heads} heads cannot share {self.kv_heads} KV heads evenly")

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """(outputs, inputs) of a layer's matrices."""
        queries, keys = self.heads * self.head_size, self.kv_heads * self.head_size
        attention = ((queries, self.hidden), (keys, self.hidden), (keys, self.hidden), (self.hidden, queries))
        return (*attention, *((self.intermediate, self.hidden),) * 2, (self.hidden, self.intermediate))

    @property
    def parameters(self) -> int:
        """All weights."""
        matrices = sum(math.prod(one) for one in self.layer_matrices)
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (matrices + 2 * self.hidden) + tables + self.hidden

    def cache_of_token(self, dtype: str = "fp16") -> float:
        """Bytes of keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_size * BITS[dtype] / 8

    def weights(self, kind: Weights) -> float:
        """Bytes of all weights."""
        return self.stage(kind, 1, self.layers, first=True, last=True)

    def stage(self, kind: Weights, tensor: int, layers: int, *, first: bool, last: bool) -> float:
        """Bytes of one card's part of `layers` layers cut `tensor` ways, with embedding or head where it has them."""
        matrices = 0.0
        for number, (outputs, inputs) in enumerate(self.layer_matrices):
            ways = min(tensor, self.kv_heads) if number in (1, 2) else tensor
            # The output projection and the last of the feed-forward matrices are cut by their inputs.
            cut = (outputs, inputs // ways) if number in (3, 6) else (outputs // ways, inputs)
            matrices += kind.matrix(*cut)
        tables = (first + last) if not (self.tied and first and last) else 1
        plain = kind.plain_bits / 8
        table = math.ceil(self.vocabulary / tensor) * self.hidden * plain
        return layers * (matrices + 2 * self.hidden * plain) + tables * table + (self.hidden * plain if last else 0)


LLAMA_2: Final[Mapping[str, Transformer]] = {
    "llama-2-7b": Transformer(32, 4096, 32, 32, 128, 11_008, 32_000),
    "llama-2-13b": Transformer(40, 5120, 40, 40, 128, 13_824, 32_000),
    "llama-2-70b": Transformer(80, 8192, 64, 8, 128, 28_672, 32_000),
}


@dataclass(frozen=True, slots=True)
class Weights:
    """How weights are kept. Of int8 and int4 only the layers' matrices are; tables and norms stay in fp16.

    `group`: weights that share a scale; None: a row of the matrix does.
    """

    dtype: str = "fp16"
    group: int | None = 128

    def __post_init__(self) -> None:
        if self.dtype not in BITS:
            raise PlanError(f"dtype: expected one of {', '.join(BITS)}, got {self.dtype!r}")
        if self.group is not None and self.group < 1:
            raise PlanError(f"group: expected 1 or more weights, got {self.group}")

    @property
    def plain_bits(self) -> int:
        """Bits of a weight that is not quantized."""
        return 16 if self.dtype in QUANTIZED else BITS[self.dtype]

    def matrix(self, outputs: int, inputs: int) -> float:
        """Bytes of a layer's matrix."""
        bits = BITS[self.dtype]
        if self.dtype not in QUANTIZED:
            return outputs * inputs * bits / 8
        groups = outputs * (1 if self.group is None else math.ceil(inputs / self.group))
        return (outputs * inputs * bits + groups * (_SCALE_BITS + bits)) / 8


@dataclass(frozen=True, slots=True)
class Fit:
    """A model on `tensor * pipeline` cards of one kind. Bytes are of the fullest card, tokens of all together.

    `tokens`: how many fit into the cache beside the weights; 0 where not even the weights fit.
    """

    card: Card
    tensor: int
    pipeline: int
    weights: float
    cache_of_token: float
    tokens: int

    @property
    def count(self) -> int:
        """Cards."""
        return self.tensor * self.pipeline


def fit(
    model: Transformer, kind: Weights, cache: str, card: Card, tensor: int, pipeline: int, usable: float = USABLE
) -> Fit:
    """How a split uses its cards. Raises `PlanError` for one that the architecture does not allow."""
    if cache not in BITS:
        raise PlanError(f"cache dtype: expected one of {', '.join(BITS)}, got {cache!r}")
    if not 0 < usable <= 1:
        raise PlanError(f"usable share of a card: expected more than 0 and at most 1, got {usable:g}")
    if tensor < 1 or pipeline < 1:
        raise PlanError(f"split: expected 1 way or more, got {tensor} x {pipeline}")
    if model.heads % tensor or model.intermediate % tensor:
        raise PlanError(
            f"tensor parallel: {model.heads} heads and {model.intermediate} columns cannot be cut {tensor} ways"
        )
    if model.kv_heads % tensor and tensor % model.kv_heads:
        raise PlanError(f"tensor parallel: {model.kv_heads} KV heads cannot be cut or copied {tensor} ways")
    if pipeline > model.layers:
        raise PlanError(f"pipeline parallel: {model.layers} layers cannot be given to {pipeline} stages")
    room = card.usable(usable)
    weights, of_token, tokens = 0.0, 0.0, math.inf
    for number, layers in enumerate(_stages(model.layers, pipeline)):
        own = model.stage(kind, tensor, layers, first=number == 0, last=number == pipeline - 1)
        heads = max(1, model.kv_heads // tensor)
        token = 2 * layers * heads * model.head_size * BITS[cache] / 8
        weights, of_token = max(weights, own), max(of_token, token)
        tokens = min(tokens, max(0, math.floor((room - own) / token)))
    return Fit(card, tensor, pipeline, weights, of_token, int(tokens))


def fewest(
    model: Transformer,
    kind: Weights,
    cache: str,
    cards: Sequence[Card],
    tokens: int,
    usable: float = USABLE,
    most: int = 64,
) -> list[Fit]:
    """For each card the smallest number of it that holds the weights and the cache of so many tokens.

    Of splits with as many cards the one with fewest stages, since a request passes all of them. Cards of which not even
    `most` are enough are left out.
    """
    found = []
    for card in cards:
        fits = []
        for tensor in _WAYS:
            for pipeline in _WAYS:
                if tensor * pipeline > most:
                    continue
                try:
                    one = fit(model, kind, cache, card, tensor, pipeline, usable)
                except PlanError:
                    continue  # not every number of ways divides the heads
                if one.tokens >= tokens:
                    fits.append(one)
        if fits:
            found.append(min(fits, key=lambda one: (one.count, one.pipeline)))
    return found


def of_config(config: Mapping[str, Any], where: str = "config") -> Transformer:
    """The architecture a Hugging Face `config.json` describes. Raises `PlanError` naming the key."""
    family = config.get("model_type")
    experts = [
        key for key in ("num_local_experts", "num_experts", "n_routed_experts", "kv_lora_rank") if config.get(key)
    ]
    if family not in _FAMILIES or experts:
        what = f"its {experts[0]}" if experts else f"model_type {family!r}"
        raise PlanError(
            f"{where}: {what} is not one that is known here ({', '.join(_FAMILIES)}); give the sizes instead"
        )

    def number(key: str, default: int | None = None) -> int:
        value = config.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanError(f"{where}: {key}: expected a whole number from 1, got {value!r}")
        return value

    hidden, heads = number("hidden_size"), number("num_attention_heads")
    return Transformer(
        layers=number("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=number("num_key_value_heads", heads),
        head_size=number("head_dim", hidden // heads),
        intermediate=number("intermediate_size"),
        vocabulary=number("vocab_size"),
        tied=bool(config.get("tie_word_embeddings", False)),
    )


def _stages(layers: int, pipeline: int) -> list[int]:
    """Layers of each stage, as even as can be; the ends, which have a table besides, get none of the rest."""
    each, rest = divmod(layers, pipeline)
    counts = [each] * pipeline
    middle = sorted(range(pipeline), key=lambda number: (number in (0, pipeline - 1), number))
    for number in middle[:rest]:
        counts[number] += 1
    return counts
