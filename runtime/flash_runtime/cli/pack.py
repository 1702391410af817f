"""`flash pack`: one memory-mappable file of a model, in the number formats of one variant."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated
from urllib.parse import unquote, urlsplit

import typer

from flash_runtime.cli.terminal import (
    BarReporter,
    Model,
    Revision,
    Sha256,
    fail,
    failures_told,
    out,
    source_of,
    user_cache,
)


def pack(
    model: Model,
    variant: Annotated[
        str, typer.Option(help="cloud = bf16, lite = int8 weights and activations, nano = int4 weights.")
    ] = "lite",
    head: Annotated[
        str | None,
        typer.Option(
            help="Format of embedding and head for nano: int8, or int4 (smaller, less true).", show_default=False
        ),
    ] = None,
    rotate: Annotated[
        bool | None,
        typer.Option(
            help="Spread outliers over all features before rounding: closer predictions, a larger file.",
            show_default="no",
        ),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate", help="Round the weights for the inputs that a text gives them: truer, takes minutes."
        ),
    ] = False,
    calibration_text: Annotated[
        Path | None,
        typer.Option(
            help="Text to calibrate on, in the model's languages; unset = a built-in one.", show_default=False
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File to write; unset = MODEL-VARIANT.flash here.")
    ] = None,
    revision: Revision = None,
    sha256: Sha256 = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a model as one file that engines map into memory: weights in the kernels' layout, tokenizer, checksums.

    A pulled model is packed without asking; use this to prepare a file elsewhere, and serve it as `file:///PATH`.

    Example: flash pack builtin://smollm2-135m-instruct --variant nano
    """
    with failures_told():
        from flash_runtime.model.pull import PullRequest, pack_file
        from flash_runtime.model.variants import formats, variant_named

        calibrate = calibrate or calibration_text is not None
        name, chosen = variant_named(variant), formats(variant, head=head, calibrated=calibrate)
        target = output or Path(f"{_stem(model)}-{name.lower()}.flash")
        if target.exists() and not force:
            fail(f"--output {target}: exists already; replace it with --force, or name another file")
        source = source_of(model, revision, sha256)
        request = PullRequest(
            source,
            name,
            target.parent,
            sha256,
            head=head,
            rotate=rotate,
            calibrate=calibrate,
            calibration_text=calibration_text,
        )
        started = time.monotonic()
        with BarReporter() as progress:
            pack_file(request, target, cache=user_cache(), progress=progress)
    size, seconds = target.stat().st_size / 1e6, time.monotonic() - started
    numbers = f"weights {chosen.weight}, head {chosen.head}"
    out.print(f"[green]✓[/green] {target}: {name}, {numbers}, {size:.1f} MB, {seconds:.1f} s", soft_wrap=True)


def _stem(model: str) -> str:
    """The last word of MODEL, for a file's name."""
    parts = urlsplit(model)
    last = Path(parts.netloc + unquote(parts.path)).name if "://" in model else Path(model).expanduser().absolute().name
    return last.removesuffix(".gguf") or "model"
