"""`penstock plan memory`: weights, activations and caches of a model, and the cards it fits on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from penstock import console
from penstock.commands import _plan_values as values

if TYPE_CHECKING:
    from models.cards import Card
    from models.transformers import Fit, Transformer

_SIZES: Final = ("layers", "hidden", "heads", "kv_heads", "head_size", "intermediate", "vocabulary")
Whole = Annotated[int | None, typer.Option(min=1, help="Of the transformer, instead of the named one's.")]


def register(group: typer.Typer) -> None:
    """Add the command."""
    group.command()(memory)


def memory(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="An ONNX file, a transformer's config.json, llama-2-7b, -13b or -70b, or a model of the store.",
        ),
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of a model of the store; else the newest.")] = None,
    batch: Annotated[str, typer.Option(help="ONNX: batch sizes to plan for.")] = "1,8,32",
    axis: Annotated[list[str] | None, typer.Option(help="ONNX: NAME=LENGTH of a free axis, such as seq=128.")] = None,
    dtype: Annotated[str, typer.Option(help="Transformer: weights in fp32, fp16, bf16, fp8, int8 or int4.")] = "fp16",
    group: Annotated[
        int, typer.Option(min=0, help="Weights of int8 and int4 that share a scale; 0: a row does.")
    ] = 128,
    cache: Annotated[str, typer.Option(help="Transformer: keys and values in fp16, fp8, int8, int4.")] = "fp16",
    sequences: Annotated[int, typer.Option(min=1, help="Transformer: how many are held at once.")] = 1,
    length: Annotated[int, typer.Option(min=1, help="Transformer: tokens of each.")] = 4096,
    tensor: Annotated[
        int | None, typer.Option(min=1, help="Transformer: tensor-parallel ways; else what fits.")
    ] = None,
    pipeline: Annotated[int | None, typer.Option(min=1, help="Transformer: pipeline stages; else what fits.")] = None,
    card: Annotated[list[str] | None, typer.Option(help="A card, or NAME=GIGABYTES; several times; else all.")] = None,
    usable: Annotated[float, typer.Option(help="Share of a card's memory that is used.")] = 0.9,
    layers: Whole = None,
    hidden: Whole = None,
    heads: Whole = None,
    kv_heads: Whole = None,
    head_size: Whole = None,
    intermediate: Whole = None,
    vocabulary: Whole = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Bytes of weights, of a batch's tensors or a token's cache, and what fits on which cards. GB are decimal."""
    from models.cards import cards
    from models.transformers import LLAMA_2

    sizes = dict(
        zip(_SIZES, (layers, hidden, heads, kv_heads, head_size, intermediate, vocabulary), strict=True)
    )  # fmt: skip
    given = {name: value for name, value in sizes.items() if value is not None}
    with values.failing_in_one_line():
        chosen = cards(card or ())
        if what is None or what.lower() in LLAMA_2 or what.endswith(".json"):
            model = _transformer(what, given)
            document = _of_transformer(
                model, dtype, group or None, cache, sequences * length, tensor, pipeline, chosen, usable
            )
            shown = _show_transformer
        elif given:
            console.fail(
                f"--{next(iter(given)).replace('_', '-')}: {what} is no transformer whose sizes are given here"
            )
        else:
            document = _of_graph(
                _file(what, version), values.whole("--batch", batch), _axes(axis or ()), chosen, usable
            )
            shown = _show_graph
    if as_json:
        console.print_json(document)
    else:
        shown(document)


def _file(what: str, version: str | None) -> Path:
    from models.errors import PlanError
    from models.registry import ModelStore

    if what.endswith(".onnx") or Path(what).is_file():
        return Path(what)
    store = ModelStore(console.settings().models.store)
    if what not in store.names():
        there = ", ".join(store.names()) or "none"
        raise PlanError(f"{what}: no such ONNX file, transformer or model of the store (it has {there})")
    return store.artifact(what, version or store.default_version(what))


def _axes(texts: Sequence[str]) -> dict[str, int]:
    found = {}
    for text in texts:
        name, equals, length = text.rpartition("=")
        if not (name and equals and length.isdigit() and int(length)):
            console.fail(f"--axis: expected NAME=LENGTH, such as seq=128, got {text!r}")
        found[name] = int(length)
    return found


def _of_graph(path: Path, batches: Sequence[int], axes: dict[str, int], cards: Sequence[Card], usable: float) -> Any:
    from models.memory import activations
    from models.onnx_graph import FLOATING, OnnxFile

    file = OnnxFile(path)
    weights: Counter[str] = Counter()
    items: Counter[str] = Counter()
    graph = file.at(batches[0], axes)
    for one in graph.all_weights():
        weights[one.dtype] += one.size
        items[one.dtype] += one.items
    total = sum(weights.values())
    rows = []
    unsized: set[str] = set()
    for batch in batches:
        found = activations(file.at(batch, axes))
        unsized.update(found.unsized)
        rows.append(
            {
                "rows": batch,
                "live_bytes": found.live,
                "most_live_at": found.at,
                "buffer_bytes": found.buffers,
                "kept_bytes": found.kept,
                "input_bytes": found.inputs,
                "total_bytes": total + found.kept + found.inputs,
            }
        )
    floating = sum(count for kind, count in items.items() if kind in FLOATING)
    others = sum(size for kind, size in weights.items() if kind not in FLOATING)
    return {
        "file": str(path),
        "weights": [
            {"dtype": kind, "weights": items[kind], "bytes": size} for kind, size in weights.most_common() if size
        ],
        "weight_bytes": total,
        "weight_bytes_as": {
            name: others + floating * bits // 8 for name, bits in (("fp32", 32), ("fp16", 16), ("int8", 8), ("int4", 4))
        },
        "batches": rows,
        "unsized": sorted(unsized),
        "cards": [_largest(file, axes, total, one, usable) for one in cards],
    }


def _largest(file: Any, axes: dict[str, int], weights: int, card: Card, usable: float) -> dict[str, Any]:
    """The largest batch for which a card has room: a batch's bytes grow with its rows along a line."""
    from models.memory import activations

    few, many = (activations(file.at(rows, axes)) for rows in (64, 128))
    each = (many.kept + many.inputs - few.kept - few.inputs) / 64
    room = card.usable(usable) - weights - (few.kept + few.inputs - 64 * each)
    rows = None if each <= 0 else max(0, int(room / each))
    return {"card": card.name, "gigabytes": card.gigabytes, "fits": room > each, "largest_batch_rows": rows}


def _show_graph(found: Any) -> None:
    size = values.size
    console.print_table(
        ("weights", "count", "memory"),
        [(one["dtype"], f"{one['weights']:,}", size(one["bytes"])) for one in found["weights"]],
        title=f"weights, {size(found['weight_bytes'])}",
    )
    console.print_table(
        ("rows", "live", "buffers", "kept by a worker", "input", "with weights", "most is live at"),
        [
            (
                one["rows"],
                size(one["live_bytes"]),
                size(one["buffer_bytes"]),
                size(one["kept_bytes"]),
                size(one["input_bytes"]),
                size(one["total_bytes"]),
                one["most_live_at"],
            )
            for one in found["batches"]
        ],
        title="a batch",
    )
    console.print_table(
        ("card", "GB", "largest batch"),
        [(one["card"], f"{one['gigabytes']:g}", _rows(one)) for one in found["cards"]],
        title="cards",
    )
    others = ", ".join(f"{name} {size(count)}" for name, count in found["weight_bytes_as"].items())
    console.note(f"the same weights as {others}")
    if found["unsized"]:
        console.note(f"not counted, for their size depends on the data: {', '.join(found['unsized'])}")


def _rows(found: dict[str, Any]) -> str:
    if not found["fits"]:
        return "none"
    rows = found["largest_batch_rows"]
    return "fits; the file fixes its rows" if rows is None else f"{rows:,}"


def _transformer(what: str | None, given: dict[str, Any]) -> Transformer:
    from models.errors import PlanError
    from models.transformers import LLAMA_2, Transformer, of_config

    if what is not None:
        if what.lower() in LLAMA_2:
            return replace(LLAMA_2[what.lower()], **given)
        try:
            config = json.loads(Path(what).read_text("utf-8"))
        except OSError as error:
            raise PlanError(f"{what}: it cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise PlanError(f"{what}: it is no JSON: {error}") from None
        if not isinstance(config, dict):
            raise PlanError(f"{what}: expected an object with the sizes of a transformer")
        return replace(of_config(config, what), **given)
    if missing := [name for name in _SIZES if name not in given and name not in ("kv_heads", "head_size")]:
        raise PlanError(f"--{missing[0]}: a transformer of your own needs it; or name a MODEL")
    heads = given["heads"]
    return Transformer(**{"kv_heads": heads, "head_size": given["hidden"] // heads, **given})


def _of_transformer(
    model: Transformer,
    dtype: str,
    group: int | None,
    cache: str,
    tokens: int,
    tensor: int | None,
    pipeline: int | None,
    cards: Sequence[Card],
    usable: float,
) -> Any:
    from models.transformers import Weights, fewest, fit

    kind = Weights(dtype, group)
    if tensor is None and pipeline is None:
        fits = fewest(model, kind, cache, cards, tokens, usable)
    else:
        fits = [fit(model, kind, cache, one, tensor or 1, pipeline or 1, usable) for one in cards]
    return {
        "parameters": model.parameters,
        "dtype": dtype,
        "weight_bytes": model.weights(kind),
        "cache_dtype": cache,
        "cache_bytes_of_token": model.cache_of_token(cache),
        "tokens": tokens,
        "cache_bytes": tokens * model.cache_of_token(cache),
        "cards": [_fit_json(one, tokens) for one in fits],
    }


def _fit_json(one: Fit, tokens: int) -> dict[str, Any]:
    return {
        "card": one.card.name,
        "gigabytes": one.card.gigabytes,
        "cards": one.count,
        "tensor_parallel": one.tensor,
        "pipeline_parallel": one.pipeline,
        "weight_bytes_of_card": one.weights,
        "cache_bytes_of_token_of_card": one.cache_of_token,
        "tokens_that_fit": one.tokens,
        "fits": one.tokens >= tokens,
    }


def _show_transformer(found: Any) -> None:
    size = values.size
    console.print_table(
        ("", "memory"),
        [
            (f"weights, {found['parameters']:,} in {found['dtype']}", size(found["weight_bytes"])),
            (f"cache of a token, {found['cache_dtype']}", f"{found['cache_bytes_of_token'] / 1e6:.3g} MB"),
            (f"cache of {found['tokens']:,} tokens", size(found["cache_bytes"])),
        ],
    )
    console.print_table(
        ("card", "GB", "cards", "tensor x pipeline", "weights of a card", "tokens that fit"),
        [
            (
                one["card"],
                f"{one['gigabytes']:g}",
                one["cards"],
                f"{one['tensor_parallel']} x {one['pipeline_parallel']}",
                size(one["weight_bytes_of_card"]),
                f"{one['tokens_that_fit']:,}" + ("" if one["fits"] else ", too few"),
            )
            for one in found["cards"]
        ],
        title="what fits",
    )
    if not found["cards"]:
        console.note("none of the cards is enough, however many")
