"""Transformers against what was published: sizes of Llama 2, its shards, its quantized files, its cache."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from models.cards import CARDS, Card, cards
from models.errors import PlanError
from models.transformers import LLAMA_2, Transformer, Weights, fewest, fit, of_config

SEVENTY = LLAMA_2["llama-2-70b"]
FP16 = Weights("fp16")


@pytest.mark.parametrize(
    ("name", "parameters"),
    # The number of weights in the checkpoints that Meta released (meta-llama/Llama-2-*-hf, July 2023).
    [("llama-2-7b", 6_738_415_616), ("llama-2-13b", 13_015_864_320), ("llama-2-70b", 68_976_648_192)],
)
def test_llama_2_has_as_many_weights_as_its_checkpoints(name: str, parameters: int) -> None:
    assert LLAMA_2[name].parameters == parameters
    assert LLAMA_2[name].weights(Weights("fp32")) == 4 * parameters


def test_seventy_billion_weights_in_fp16_are_138_gb_and_a_token_a_third_of_a_megabyte() -> None:
    assert SEVENTY.weights(FP16) / 1e9 == pytest.approx(138, abs=0.1)
    assert SEVENTY.cache_of_token() == 2 * 80 * 8 * 128 * 2 == 327_680
    assert round(SEVENTY.cache_of_token() / 1e6, 2) == 0.33
    assert round(replace(SEVENTY, kv_heads=64).cache_of_token() / 1e6, 1) == 2.6
    assert SEVENTY.cache_of_token("int8") == 163_840
    assert SEVENTY.cache_of_token("int4") == 81_920


@pytest.mark.parametrize(
    ("group", "gigabytes"),
    # Sizes of the 4-bit GPTQ files of the 70B model (model cards of TheBloke/Llama-2-70B-chat-GPTQ and, group 64,
    # llama2_70b_chat_uncensored-GPTQ, 2023), which also hold an index for each input of a matrix.
    [(None, 35.33), (128, 36.65), (64, 37.99), (32, 40.66)],
)
def test_four_bits_are_as_large_as_published_files(group: int | None, gigabytes: float) -> None:
    assert SEVENTY.weights(Weights("int4", group)) / 1e9 == pytest.approx(gigabytes, rel=0.002)


def test_eight_bits_are_hardly_more_than_half_of_fp16() -> None:
    assert SEVENTY.weights(Weights("int8", None)) / 1e9 == pytest.approx(69.5, abs=0.1)
    assert SEVENTY.weights(Weights("int8")) / 1e9 == pytest.approx(71.1, abs=0.1)
    assert SEVENTY.weights(Weights("fp8")) == 68_976_648_192


def test_eight_ways_are_the_shards_that_meta_released() -> None:
    # Shapes in consolidated.00.pth, one of eight files of the 70B model.
    layer = 1024 * 8192 + 128 * 8192 * 2 + 8192 * 1024 + 3584 * 8192 * 2 + 8192 * 3584 + 2 * 8192
    shard = 32_000 * 1024 + 4000 * 8192 + 8192 + 80 * layer
    assert fit(SEVENTY, FP16, "fp16", Card("x", 80), 8, 1).weights == 2 * shard


def test_more_ways_than_kv_heads_copy_them() -> None:
    # 16 ways: queries are cut 16 times, each of the 8 KV heads is on two cards.
    model = replace(SEVENTY, heads=64)
    eight, sixteen = (fit(model, FP16, "fp16", Card("x", 80), ways, 1) for ways in (8, 16))
    assert sixteen.cache_of_token == eight.cache_of_token == 2 * 80 * 1 * 128 * 2
    assert sixteen.weights > eight.weights / 2


def test_stages_share_the_layers_and_the_ends_have_the_tables() -> None:
    two = fit(SEVENTY, FP16, "fp16", Card("x", 80), 1, 2)
    assert two.weights == pytest.approx(SEVENTY.weights(FP16) / 2, rel=1e-4)
    assert two.cache_of_token == SEVENTY.cache_of_token() / 2
    # 80 layers on three are 27, 27 and 26; on six the two that are left over go to the middle.
    three = fit(SEVENTY, FP16, "fp16", Card("x", 80), 1, 3)
    assert three.weights == SEVENTY.stage(FP16, 1, 27, first=True, last=False)
    six = fit(SEVENTY, FP16, "fp16", Card("x", 80), 1, 6)
    assert six.weights == SEVENTY.stage(FP16, 1, 14, first=False, last=False)


def test_tokens_that_fit_are_what_is_left_beside_the_weights() -> None:
    found = fit(SEVENTY, FP16, "fp16", Card("H100-80GB", 80), 2, 1, usable=0.9)
    assert found.tokens == int((80e9 * 0.9 - found.weights) // (327_680 / 2))
    assert fit(SEVENTY, FP16, "fp16", Card("H100-80GB", 80), 1, 1).tokens == 0


def test_the_fewest_cards_that_hold_it_are_found() -> None:
    found = {one.card.name: one for one in fewest(SEVENTY, FP16, "fp16", CARDS, 4096)}
    counts = {name: one.count for name, one in found.items()}
    assert counts["H100-80GB"] == counts["A100-80GB"] == counts["H200"] == 2
    assert counts["L40S"] == 4
    assert counts["MI300X"] == counts["B200"] == 1
    assert counts["A100-40GB"] == 4
    assert all(one.tokens >= 4096 for one in found.values())
    # In four bits one card of 48 GB is enough; the cache of many users is not held by it.
    assert {one.card.name: one.count for one in fewest(SEVENTY, Weights("int4"), "fp16", cards(["L40S"]), 4096)} == {
        "L40S": 1
    }
    assert fewest(SEVENTY, Weights("int4"), "fp16", cards(["L40S"]), 100_000)[0].count == 2
    assert fewest(SEVENTY, FP16, "fp16", cards(["tiny=1"]), 4096) == []


CONFIG = {
    "model_type": "llama",
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "num_hidden_layers": 80,
    "num_key_value_heads": 8,
    "intermediate_size": 28_672,
    "vocab_size": 32_000,
    "tie_word_embeddings": False,
}


def test_a_config_is_read_as_it_was_published() -> None:
    assert of_config(CONFIG) == SEVENTY
    del (plain := dict(CONFIG))["num_key_value_heads"]
    assert of_config(plain).kv_heads == 64
    # Llama 3.2 1B, whose head is its embedding: 1,235,814,400 weights (meta-llama/Llama-3.2-1B).
    sizes = {"hidden_size": 2048, "num_attention_heads": 32, "num_hidden_layers": 16, "intermediate_size": 8192}
    small = {**CONFIG, **sizes, "vocab_size": 128_256, "head_dim": 64, "tie_word_embeddings": True}
    assert of_config(small).parameters == 1_235_814_400


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not one that is known here"),
        ({"num_local_experts": 8}, "its num_local_experts is not one"),
        ({"hidden_size": "8192"}, "hidden_size: expected a whole number from 1, got '8192'"),
        ({"vocab_size": None}, "vocab_size: expected a whole number"),
    ],
)
def test_a_config_that_is_not_understood_is_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(PlanError, match=says):
        of_config({**CONFIG, **change}, "config.json")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Transformer(0, 8, 2, 2, 4, 16, 10), "layers: expected 1 or more, got 0"),
        (lambda: replace(SEVENTY, kv_heads=7), "64 heads cannot share 7 KV heads"),
        (lambda: Weights("int3"), "dtype: expected one of fp32, .*, got 'int3'"),
        (lambda: Weights("int4", 0), "group: expected 1"),
        (lambda: fit(SEVENTY, FP16, "fp12", CARDS[0], 1, 1), "cache dtype"),
        (lambda: fit(SEVENTY, FP16, "fp16", CARDS[0], 3, 1), "cannot be cut 3 ways"),
        (lambda: fit(SEVENTY, FP16, "fp16", CARDS[0], 1, 81), "80 layers cannot be given to 81 stages"),
        (lambda: fit(SEVENTY, FP16, "fp16", CARDS[0], 1, 1, usable=1.5), "usable share"),
        (
            lambda: fit(replace(SEVENTY, heads=48, kv_heads=6), FP16, "fp16", CARDS[0], 16, 1),
            "6 KV heads cannot be cut",
        ),
        (lambda: cards(["H300"]), "no 'H300' is listed; there are T4, .*, or NAME=GIGABYTES"),
        (lambda: cards(["mine=lots"]), "expected NAME=GIGABYTES, such as H100=80, got 'mine=lots'"),
    ],
)
def test_what_cannot_be_is_named(call: Any, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        call()


def test_cards_are_found_whatever_the_case_and_can_be_made_up() -> None:
    assert cards(["h100-80gb", "mine=33.5"]) == [Card("H100-80GB", 80), Card("mine", 33.5)]
    assert cards([]) == list(CARDS)
    assert len({one.name for one in CARDS}) == len(CARDS)
    assert Card("x", 10).usable(0.9) == 9_000_000_000
