"""A checkpoint written as `model.flash`: weights in the kernels' layout, the layer plan, and the text assets.

One tensor of the checkpoint is in memory at a time. Knows nothing about where a checkpoint came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import IntArray
from flash_runtime.kernels.int4 import quantise_int4
from flash_runtime.kernels.layout import (
    LANES,
    LinearFormat,
    PackedLinear,
    pack_int4_blocks,
    pack_linear,
    part_shapes,
)
from flash_runtime.model.calibrated import METHOD, round_layers
from flash_runtime.model.calibration import Calibration
from flash_runtime.model.checkpoint import Checkpoint, TextAssets
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.families import Recipe, recipe
from flash_runtime.model.families.recipe import Linear, read_bias, read_int4_blocks, read_vector, read_weight
from flash_runtime.model.hf_text import load_tokenizer
from flash_runtime.model.rotated import rotated
from flash_runtime.model.variants import PACK_VERSION, formats, variant_named
from flash_runtime.packed import PackedWriter

TOKENIZER_BLOB: Final = "tokenizer.json"
_ROWS_AT_ONCE: Final = 64 * LANES
"""Rows quantised together: the temporaries stay in the cache of one core."""

Progress = Callable[[int, int], None]
"""Told (tensors done, tensors in all)."""

Rows = tuple[NDArray[Any], ...]
"""Arrays with the same rows: a float weight alone, or the q, d and m of int4."""


def pack(
    checkpoint: Checkpoint,
    path: Path,
    *,
    variant: str,
    progress: Progress,
    head: str | None = None,
    rotate: bool | None = None,
    calibration: Calibration | None = None,
    about: Mapping[str, str] | None = None,
    key: str = "",
    text_only: bool = False,
) -> None:
    """Write the packed model. `about` adds to what the checkpoint says of itself (source, sha256, …), `key` names it.

    `head` replaces the variant's format of embedding and head, `rotate` whether it is rotated; a rotated checkpoint's
    int4 blocks are rounded anew. With `calibration`, the layers' linears are rounded for the inputs that its text gives
    them. With `text_only`, the weights are left out: enough for a gateway. Raises CheckpointError for damaged weights
    and UnsupportedModel for what this release cannot run.
    """
    chosen = formats(variant, head=head, calibrated=calibration is not None)
    found = recipe(checkpoint)
    if rotate := chosen.rotated if rotate is None else rotate:
        found = rotated(found)
    plan = replace(found.plan, weight_format=LinearFormat(chosen.weight), head_format=LinearFormat(chosen.head))
    text = checkpoint.text()
    _check_vocabulary(checkpoint, text)
    windows = None if calibration is None or text_only else calibration.windows(checkpoint)
    with PackedWriter(path) as writer:
        writer.add_bytes(TOKENIZER_BLOB, text.tokenizer_json)
        if not text_only:
            wide = _write_weights(checkpoint, replace(found, plan=plan), windows, writer, progress)
            plan = replace(plan, wide=wide)
        writer.set_header(
            {
                "key": key,
                "pack_version": PACK_VERSION,
                "variant": variant_named(variant),
                "rotated": rotate,
                "calibration": None if calibration is None else _calibration_header(calibration, windows or ()),
                "contents": "text" if text_only else "model",
                "about": {**_known(vars(checkpoint.about)), **(about or {})},
                "text": _text_header(text),
                "model": plan.to_json(),
            }
        )


def _write_weights(
    checkpoint: Checkpoint,
    sources: Recipe,
    windows: Sequence[IntArray] | None,
    writer: PackedWriter,
    progress: Progress,
) -> tuple[str, ...]:
    """With windows of token ids, the linears of the layers are rounded for them. Returns those that were left wide."""
    total, done = sources.num_reads, 0

    def tell(tensors: int) -> None:
        nonlocal done
        done += tensors
        progress(done, total)

    tell(0)
    writer.add(sources.plan.rope_inv_freq, sources.rope_inv_freq)
    for name, vector in sources.vectors.items():
        writer.add(name, read_vector(checkpoint, vector))
        tell(1)
    plan = sources.plan
    calibrated = set() if windows is None else plan.linear_shapes().keys() - {plan.embedding}

    for name, linear in sources.linears.items():
        if name not in calibrated:
            _write_linears(checkpoint, name, (linear,), (), plan.linear_format(name), writer, tell)
        if linear.bias:
            writer.add(f"{name}.bias", read_bias(checkpoint, linear))
            tell(len(linear.modules))
    for name, stack in sources.experts.items():
        if name not in calibrated:
            _write_linears(checkpoint, name, stack, (len(stack),), plan.linear_format(name), writer, tell)

    def keep(name: str, stack: Sequence[PackedLinear]) -> None:
        leading = (len(stack),) if name in sources.experts else ()
        linears = sources.experts.get(name) or (sources.linears[name],)
        parts = part_shapes(stack[0].format, linears[0].num_rows, linears[0].columns)
        for part, expected in parts.items():
            arrays = (packed.parts[part] for packed in stack)
            writer.stream(f"{name}.{part}", expected.dtype, (*leading, *expected.shape), arrays)
        tell(sum(len(linear.modules) for linear in linears))

    return () if windows is None else round_layers(checkpoint, sources, windows, keep)


def _write_linears(
    checkpoint: Checkpoint,
    name: str,
    stack: tuple[Linear, ...],
    leading: tuple[int, ...],
    format: LinearFormat,
    writer: PackedWriter,
    tell: Callable[[int], None],
) -> None:
    """Stream the stacked weights, then the scales and minima that rounding them gave."""
    parts = part_shapes(format, stack[0].num_rows, stack[0].columns)
    others: dict[str, list[NDArray[Any]]] = {part: [] for part in parts if part != "weight"}

    def weights() -> Iterator[NDArray[Any]]:
        for linear in stack:
            for packed in _packed(checkpoint, linear, format, tell):
                for part, arrays in others.items():
                    arrays.append(packed.parts[part])
                yield packed.weight

    writer.stream(f"{name}.weight", parts["weight"].dtype, (*leading, *parts["weight"].shape), weights())
    for part, arrays in others.items():
        writer.add(f"{name}.{part}", np.concatenate(arrays).reshape(*leading, *parts[part].shape))


def _packed(
    checkpoint: Checkpoint, linear: Linear, format: LinearFormat, tell: Callable[[int], None]
) -> Iterator[PackedLinear]:
    """The linear in blocks of whole lines, in row order."""

    def rows_of_modules() -> Iterator[Rows]:
        for index in range(len(linear.modules)):
            yield from _int4_rows(checkpoint, linear, index) if int4 else [(read_weight(checkpoint, linear, index),)]
            tell(1)

    int4 = format is LinearFormat.INT4
    try:
        for rows in _whole_lines(rows_of_modules()):
            yield pack_int4_blocks(*rows) if int4 else pack_linear(rows[0], format)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: tensors {', '.join(linear.modules)}: {error}") from error


def _int4_rows(checkpoint: Checkpoint, linear: Linear, index: int) -> Iterator[Rows]:
    """One module's int4 blocks: as the checkpoint holds them, otherwise rounded from its weights."""
    if (blocks := read_int4_blocks(checkpoint, linear, index)) is not None:
        yield blocks.q, blocks.d, blocks.m
        return
    weight = read_weight(checkpoint, linear, index)
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        rounded = quantise_int4(weight[start : start + _ROWS_AT_ONCE])
        yield rounded.q, rounded.d, rounded.m


def _whole_lines(pieces: Iterable[Rows]) -> Iterator[Rows]:
    """Blocks of whole lines; a piece that ends inside a line hands the rest to the next."""
    rest: Rows = ()
    for piece in pieces:
        rows = tuple(np.concatenate(pair) for pair in zip(rest, piece, strict=True)) if rest else piece
        whole = len(rows[0]) // LANES * LANES
        for start in range(0, whole, _ROWS_AT_ONCE):
            yield tuple(array[start : min(start + _ROWS_AT_ONCE, whole)] for array in rows)
        rest = tuple(array[whole:] for array in rows) if whole < len(rows[0]) else ()
    if rest:
        yield rest


def _check_vocabulary(checkpoint: Checkpoint, text: TextAssets) -> None:
    """The gateway must not send ids that the embedding does not have."""
    tokenizer = load_tokenizer(text.tokenizer_json, where=f"{checkpoint.path}: tokenizer.json")
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    vocabulary = checkpoint.config.vocab_size
    if not 0 <= highest < vocabulary:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer's highest id is {highest}, the embedding has {vocabulary} rows; "
            "take the tokenizer that belongs to these weights"
        )


def _calibration_header(calibration: Calibration, windows: Sequence[IntArray]) -> dict[str, Any]:
    tokens = sum(len(window) for window in windows)
    return {"method": METHOD, "text": calibration.name, "sha256": calibration.sha256, "tokens": tokens}


def _known(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: fact for name, fact in facts.items() if fact is not None}


def _text_header(text: TextAssets) -> dict[str, Any]:
    return {
        "chat_template": text.chat_template or "",
        "bos_token": text.bos_token,
        "eos_token": text.eos_token,
        "eos_token_ids": list(text.eos_token_ids),
        "add_bos": text.add_bos,
        "special_tokens": text.special_tokens,
    }
