"""A checkpoint written as `model.flash`: int8 weights in the kernels' layout, the layer plan, and the text assets.

One tensor of the checkpoint is in memory at a time. Knows nothing about where a checkpoint came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from flash_runtime.kernels.layout import LANES, PackedLinear, pack_linear, padded_rows, weight_shape
from flash_runtime.model.checkpoint import Checkpoint, FloatArray, TextAssets
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.families import Recipe, recipe
from flash_runtime.model.families.recipe import Linear, read_bias, read_vector, read_weights
from flash_runtime.model.hf_text import load_tokenizer
from flash_runtime.model.variants import PACK_VERSION, refuse_variant
from flash_runtime.packed import PackedWriter

TOKENIZER_BLOB: Final = "tokenizer.json"
_ROWS_AT_ONCE: Final = 64 * LANES
"""Rows quantised together: the temporaries stay in the cache of one core."""

Progress = Callable[[int, int], None]
"""Told (tensors done, tensors in all)."""


def pack(
    checkpoint: Checkpoint,
    path: Path,
    *,
    variant: str,
    progress: Progress,
    about: Mapping[str, str] | None = None,
    key: str = "",
    text_only: bool = False,
) -> None:
    """Write the packed model. `about` adds to what the checkpoint says of itself (source, sha256, …), `key` names it.

    With `text_only`, the weights are left out: enough for a gateway. Raises CheckpointError for damaged weights and
    UnsupportedModel for what this release cannot run.
    """
    refuse_variant(variant)
    plan_and_sources = recipe(checkpoint)
    text = checkpoint.text()
    _check_vocabulary(checkpoint, text)
    with PackedWriter(path) as writer:
        writer.set_header(
            {
                "key": key,
                "pack_version": PACK_VERSION,
                "variant": variant,
                "contents": "text" if text_only else "model",
                "about": {**vars(checkpoint.about), **(about or {})},
                "text": _text_header(text),
                "model": plan_and_sources.plan.to_json(),
            }
        )
        writer.add_bytes(TOKENIZER_BLOB, text.tokenizer_json)
        if not text_only:
            _write_weights(checkpoint, plan_and_sources, writer, progress)


def _write_weights(checkpoint: Checkpoint, sources: Recipe, writer: PackedWriter, progress: Progress) -> None:
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
    for name, linear in sources.linears.items():
        _write_linears(checkpoint, name, (linear,), (), writer, tell)
        if linear.bias:
            writer.add(f"{name}.bias", read_bias(checkpoint, linear))
            tell(len(linear.modules))
    for name, stack in sources.experts.items():
        _write_linears(checkpoint, name, stack, (len(stack),), writer, tell)


def _write_linears(
    checkpoint: Checkpoint,
    name: str,
    stack: tuple[Linear, ...],
    leading: tuple[int, ...],
    writer: PackedWriter,
    tell: Callable[[int], None],
) -> None:
    """Stream the stacked weights, then the scales that quantising them gave."""
    rows, columns = stack[0].num_rows, stack[0].columns
    scales: list[FloatArray] = []

    def weights() -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
        for linear in stack:
            for packed in _quantised(checkpoint, linear, tell):
                scales.append(packed.parts["scale"])
                yield packed.weight

    writer.stream(f"{name}.weight", "uint8", (*leading, *weight_shape(rows, columns)), weights())
    writer.add(f"{name}.scale", np.concatenate(scales).reshape(*leading, padded_rows(rows)))


def _quantised(checkpoint: Checkpoint, linear: Linear, tell: Callable[[int], None]) -> Iterator[PackedLinear]:
    """Blocks of whole lines, in row order; a module that ends inside a line hands the rest to the next."""
    rest = np.empty((0, linear.columns), dtype=np.float32)
    for weight in read_weights(checkpoint, linear):
        rows = np.concatenate([rest, weight]) if len(rest) else weight
        whole = len(rows) // LANES * LANES
        for start in range(0, whole, _ROWS_AT_ONCE):
            yield pack_linear(rows[start : min(start + _ROWS_AT_ONCE, whole)])
        rest = rows[whole:]
        tell(1)
    if len(rest):
        yield pack_linear(rest)


def _check_vocabulary(checkpoint: Checkpoint, text: TextAssets) -> None:
    """The gateway must not send ids that the embedding does not have."""
    tokenizer = load_tokenizer(text.tokenizer_json, where=f"{checkpoint.path}: tokenizer.json")
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    vocabulary = checkpoint.config.vocab_size
    if not 0 <= highest < vocabulary:
        raise CheckpointError(
            f"{checkpoint.path}: the tokenizer's highest id is {highest}, the embedding has {vocabulary} rows"
        )


def _text_header(text: TextAssets) -> dict[str, Any]:
    return {
        "chat_template": text.chat_template or "",
        "bos_token": text.bos_token,
        "eos_token": text.eos_token,
        "eos_token_ids": list(text.eos_token_ids),
        "add_bos": text.add_bos,
        "special_tokens": text.special_tokens,
    }
