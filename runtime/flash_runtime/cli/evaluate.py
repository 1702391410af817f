"""`flash eval`: what each variant costs in quality, measured on this machine through the native engine."""

from __future__ import annotations

import dataclasses
import functools
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from rich.table import Table

from flash_runtime.cli.terminal import (
    BarReporter,
    Model,
    Revision,
    bars,
    fail,
    failures_told,
    out,
    source_of,
    user_cache,
)

if TYPE_CHECKING:
    from flash_runtime.engine.batch import Provider
    from flash_runtime.kernels.provider import KvDtype
    from flash_runtime.model.evaluate import Score
    from flash_runtime.model.sources import Source

_WINDOW_TOKENS: Final = 512
_REFERENCE: Final = "float32"

Wanted = tuple[str, str | None, bool]
"""A variant, the format of its head (None = its own), whether it is calibrated."""

Results = dict[str, dict[str | None, "Score"]]
"""Scores by text and by variant; None = the reference."""


def evaluate(
    model: Model,
    variants: Annotated[
        str,
        typer.Option(
            help="Which to measure, by commas; nano:int4 has an int4 head, lite:calibrated is packed with --calibrate."
        ),
    ] = "cloud,lite,nano",
    text: Annotated[
        list[Path] | None,
        typer.Option(
            "--text", help="Your own text, once for each file; unset = Python's language reference.", show_default=False
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=64, help="Tokens of each text to score, spread over it.")] = 4096,
    kv_dtype: Annotated[str, typer.Option(help="Keys and values of the variants: bfloat16 or int8.")] = "bfloat16",
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="The figures, for programs.")] = False,
) -> None:
    """Measure the perplexity of each variant against the checkpoint's own weights in float32.

    Without --text it needs no network and no files: the text is the language reference inside every Python, once as
    prose and once as a chat. The variants run in the native engine; the reference runs in NumPy, slowly, and holds all
    weights as float32.

    Example: flash eval builtin://smollm2-135m-instruct --variants lite,nano
    """
    with failures_told():
        from flash_runtime.kernels.provider import KvDtype
        from flash_runtime.model.variants import formats, variant_named

        wanted: dict[str, Wanted] = {}
        for word in filter(None, (part.strip() for part in variants.split(","))):
            name, *options = word.split(":")
            calibrated = "calibrated" in options
            head = next((option for option in options if option != "calibrated"), None)
            formats(name, head=head, calibrated=calibrated)
            label = variant_named(name) + (f", {head} head" if head else "") + (", calibrated" if calibrated else "")
            wanted[label] = variant_named(name), head, calibrated
        if not wanted:
            fail("--variants names none; choose from cloud, lite, nano", 2)
        if kv_dtype not in list(KvDtype):
            fail(f"--kv-dtype ({kv_dtype}) must be one of {', '.join(KvDtype)}", 2)
        source = source_of(model, revision)
        results, nbytes = _measure(source, wanted, text or [], max_tokens, KvDtype(kv_dtype))
    if as_json:
        print(json.dumps(_document(source.uri, kv_dtype, results, nbytes), indent=2))
    else:
        out.print(_table(source.uri, results, nbytes))
        out.print(
            f"Windows of {_WINDOW_TOKENS} tokens, {kv_dtype} cache; ± is the standard error of the change. "
            + ("" if text else f"Text: the language reference of Python {platform.python_version()}."),
            style="dim",
        )


def _measure(
    source: Source,
    wanted: Mapping[str, Wanted],
    texts: Sequence[Path],
    max_tokens: int,
    kv_dtype: KvDtype,
) -> tuple[Results, dict[str, int]]:
    """Scores, and the size of each variant's file in bytes."""
    from flash_runtime.model.checkpoint import open_checkpoint
    from flash_runtime.model.eval_text import built_in_samples, file_samples
    from flash_runtime.model.evaluate import evaluate as score
    from flash_runtime.model.evaluate import windows_of
    from flash_runtime.model.families import recipe
    from flash_runtime.model.opened import native_provider
    from flash_runtime.model.pull import PullRequest, pull_into_cache
    from flash_runtime.model.reference import CheckpointWeights, ReferenceProvider
    from flash_runtime.text.assets import TextAssets

    cache = user_cache()
    with BarReporter() as progress:
        paths = {
            label: pull_into_cache(
                PullRequest(source, name, cache.root, head=head, calibrate=calibrated), cache=cache, progress=progress
            )
            for label, (name, head, calibrated) in wanted.items()
        }
        checkpoint = open_checkpoint(source.locate(cache, progress))
    sources = recipe(checkpoint)
    assets = TextAssets.from_packed(next(iter(paths.values())))
    samples = file_samples(assets, texts) if texts else built_in_samples(assets)
    window_tokens = min(_WINDOW_TOKENS, sources.plan.max_context_tokens)
    others: dict[str, Provider] = {
        label: native_provider(path, cached_tokens=window_tokens, kv_dtype=kv_dtype) for label, path in paths.items()
    }
    reference = ReferenceProvider(
        sources.plan, CheckpointWeights(checkpoint, sources), num_blocks=1, block_size=window_tokens
    )
    results: Results = {}
    with bars() as progress_bars:
        for sample in samples:
            windows = windows_of(sample.token_ids, max_tokens=max_tokens, window_tokens=window_tokens)
            total = sum(len(window) - 1 for window in windows)
            task = progress_bars.add_task(sample.name, total=total, unit="tokens")
            results[sample.name] = score(
                reference, others, windows, on_tokens=functools.partial(progress_bars.advance, task)
            )
    return results, {label: path.stat().st_size for label, path in paths.items()}


def _table(uri: str, results: Results, nbytes: Mapping[str, int]) -> Table:
    table = Table(title=f"Perplexity of {uri}", title_justify="left")
    table.add_column("variant")
    table.add_column("MB", justify="right")
    for name, scores in results.items():
        table.add_column(f"{name}\n{scores[None].tokens:,} tokens", justify="right")
        table.add_column("change", justify="right")
        table.add_column("divergence\nnats", justify="right")
        table.add_column("same top\ntoken", justify="right")
    for label in (None, *nbytes):
        cells = [label or _REFERENCE, f"{nbytes[label] / 1e6:.0f}" if label else ""]
        for scores in results.values():
            one = scores[label]
            cells.append(f"{one.perplexity:.3f}")
            if label is None:
                cells += ["", "", ""]
            else:
                cells.append(f"{one.change:+.2%} ± {one.change_error:.2%}")
                cells += [f"{one.divergence:.4f}", f"{one.same_top:.1%}"]
        table.add_row(*cells)
    return table


def _document(uri: str, kv_dtype: str, results: Results, nbytes: Mapping[str, int]) -> dict[str, object]:
    return {
        "model": uri,
        "reference": _REFERENCE,
        "window_tokens": _WINDOW_TOKENS,
        "kv_dtype": kv_dtype,
        "python": platform.python_version(),
        "variants": [
            {
                "variant": label or _REFERENCE,
                "file_bytes": nbytes.get(label) if label else None,
                "texts": {name: dataclasses.asdict(scores[label]) for name, scores in results.items()},
            }
            for label in (None, *nbytes)
        ],
    }
