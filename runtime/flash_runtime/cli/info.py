"""`flash info`: which kernels this machine gets, what a model is, and how evenly its experts are used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from flash_runtime.cli.heatmap import expert_heatmap
from flash_runtime.cli.terminal import BarReporter, Revision, bars, fail, failures_told, out, source_of, user_cache

if TYPE_CHECKING:
    from flash_runtime.model.expert_load import LayerLoad
    from flash_runtime.model.plan import ModelPlan
    from flash_runtime.model.sources import Source

_WINDOW_TOKENS: Final = 512


def info(
    model: Annotated[
        str | None,
        typer.Argument(
            help="A packed file, builtin://NAME, another source, a .gguf file or a folder.", show_default=False
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read a packed file whole and compare every checksum.")
    ] = False,
    experts: Annotated[
        bool, typer.Option("--experts", help="Run text through the model and draw how its experts are used.")
    ] = False,
    prompt: Annotated[str | None, typer.Option(help="The text for --experts.", show_default=False)] = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", help="A file with it; unset = Python's language reference.", show_default=False),
    ] = None,
    variant: Annotated[str, typer.Option(help="Which variant --experts runs, where MODEL is not packed.")] = "lite",
    max_tokens: Annotated[int, typer.Option(min=16, help="Tokens that --experts runs at most.")] = 2048,
    revision: Revision = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything, for programs.")] = False,
) -> None:
    """Show the kernels this machine gets and, of a model, its size, formats, licence, memory per token and experts.

    Example: flash info builtin://smollm2-135m-instruct
    """
    if model is None and (verify or experts):
        fail(f"{'--verify' if verify else '--experts'} needs a MODEL", 2)
    if (prompt is not None or text is not None) and not experts:
        fail("--prompt and --text go with --experts", 2)
    loads: list[LayerLoad] | None = None
    with failures_told():
        document: dict[str, Any] = {"kernels": _kernels()}
        if model is not None:
            source = source_of(model, revision)
            document["model"] = _model(source, verify=verify)
            if experts:
                loads = _loads(source, variant, prompt, text, max_tokens)
                document["experts"] = [
                    {**dataclasses.asdict(load), "skew": load.skew, "dead": load.dead} for load in loads
                ]
    if as_json:
        print(json.dumps(document, indent=2))
        return
    out.print(_table(document))
    if loads:
        out.print()
        out.print(expert_heatmap(loads, width=out.width, colour=out.color_system is not None))
    elif loads is not None:
        out.print("\nThis model is dense: every token passes all of its weights, it has no experts to show.")


def _kernels() -> dict[str, Any]:
    from flash_runtime.kernels.info import cpu_info

    try:
        return dataclasses.asdict(cpu_info())
    except ValueError as error:  # FLASHPLANE_ISA names what this CPU has not
        fail(str(error), 2)


def _model(source: Source, *, verify: bool) -> dict[str, Any]:
    from flash_runtime.kernels.provider import block_bytes
    from flash_runtime.model.facts import facts
    from flash_runtime.model.opened import BLOCK_TOKENS
    from flash_runtime.model.sources import packed_path

    path = packed_path(source)
    if path is not None:
        about, plan = _packed_facts(path, verify=verify)
    elif verify:
        fail(f"--verify reads packed files, {source.uri} is none; its checksums are compared when it is pulled", 2)
    else:
        about, plan = _checkpoint_facts(source)
    return {
        **about,
        **dataclasses.asdict(facts(plan)),
        "kv_bytes_per_token": block_bytes(plan, BLOCK_TOKENS) // BLOCK_TOKENS,
    }


def _packed_facts(path: Path, *, verify: bool) -> tuple[dict[str, Any], ModelPlan]:
    from flash_runtime.model.opened import open_packed

    packed, plan = open_packed(path)
    if verify:
        with bars() as progress:
            task = progress.add_task("verify", total=sum(blob.nbytes for blob in packed.blobs.values()), unit="bytes")
            packed.verify(on_bytes=lambda count: progress.advance(task, count))
    about: dict[str, Any] = {
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "verified": verify,
        "contents": packed.header.get("contents"),
        "variant": packed.header.get("variant"),
        "weight_format": plan.weight_format.value,
        "head_format": plan.head_format.value,
        "wide": len(plan.wide),
        "rotated": bool(packed.header.get("rotated", False)),
        "calibration": packed.header.get("calibration"),
    }
    return {**packed.header.get("about", {}), **about}, plan


def _checkpoint_facts(source: Source) -> tuple[dict[str, Any], ModelPlan]:
    from flash_runtime.model.checkpoint import open_checkpoint
    from flash_runtime.model.families import recipe

    cache = user_cache()
    with BarReporter() as progress:
        checkpoint = open_checkpoint(source.locate(cache, progress))
    about = {**dataclasses.asdict(checkpoint.about), **source.about, "source": source.uri}
    return {**about, "sha256": source.digest(cache)}, recipe(checkpoint).plan


def _loads(source: Source, variant: str, prompt: str | None, text: Path | None, max_tokens: int) -> list[LayerLoad]:
    """Each layer's load after running the text; empty for a dense model."""
    from flash_runtime.model.eval_text import built_in_samples, file_samples, prompt_sample
    from flash_runtime.model.evaluate import windows_of
    from flash_runtime.model.expert_load import layer_loads
    from flash_runtime.model.facts import facts
    from flash_runtime.model.opened import native_provider, open_packed
    from flash_runtime.model.pull import PullRequest, pull_into_cache
    from flash_runtime.model.sequence import CHUNK_TOKENS, Sequence
    from flash_runtime.model.sources import packed_path
    from flash_runtime.text.assets import TextAssets

    cache = user_cache()
    path = packed_path(source)
    if path is None:
        with BarReporter() as progress:
            path = pull_into_cache(PullRequest(source, variant, cache.root), cache=cache, progress=progress)
    _, plan = open_packed(path)
    if not facts(plan).experts:
        return []
    assets = TextAssets.from_packed(path)
    if prompt is not None:
        sample = prompt_sample(assets, prompt)
    else:
        sample = (built_in_samples(assets) if text is None else file_samples(assets, [text]))[0]
    window_tokens = min(_WINDOW_TOKENS, plan.max_context_tokens)
    provider = native_provider(path, cached_tokens=window_tokens)
    windows = windows_of(sample.token_ids, max_tokens=max_tokens, window_tokens=window_tokens)
    with bars() as progress_bars:
        task = progress_bars.add_task(sample.name, total=sum(map(len, windows)), unit="tokens")
        for window in windows:
            sequence = Sequence(provider)
            for start in range(0, len(window), CHUNK_TOKENS):
                chunk = window[start : start + CHUNK_TOKENS]
                sequence.feed(chunk)
                progress_bars.advance(task, len(chunk))
    counts = provider.expert_load()
    return [] if counts is None else layer_loads(counts, plan)


def _table(document: dict[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column()
    for label, value in _lines(document):
        table.add_row(label, value)
    return table


def _lines(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    kernels = document["kernels"]
    others = [isa for isa in kernels["supported"] if isa != kernels["isa"]]
    also = f" (this CPU also runs {', '.join(others)})" if others else ""
    yield "kernels", f"{kernels['isa']}, {kernels['threads']} threads{also}"
    if (model := document.get("model")) is None:
        return
    yield "model", f"{model['name']}, licence {model['license']}"
    yield "attribution", model["attribution"]
    if model.get("training"):
        yield "training", model["training"]
    if "source" in model:
        yield "source", f"{model['source']}\nsha256 {model.get('sha256', 'unknown')}"
    if "file" in model:
        sound = "every checksum holds" if model["verified"] else "checksums not compared; --verify does"
        yield "file", f"{model['file']}, {model['file_bytes'] / 1e6:.1f} MB, {sound}"
        only = ", tokenizer only" if model["contents"] == "text" else ""
        basis = ", rotated" if model["rotated"] else ""
        numbers = f"weights {model['weight_format']}, head {model['head_format']}"
        numbers += f", {model['wide']} linears bf16" if model["wide"] else ""
        yield "variant", f"{model['variant']}: {numbers}{basis}{only}"
        if (how := model["calibration"]) is not None:
            yield "calibration", f"{how['method']}, {how['tokens']:,} tokens of {how['text']}\nsha256 {how['sha256']}"
    yield "family", f"{model['family']}, {model['layers']} layers, context {model['context_tokens']:,} tokens"
    parameters, active = model["parameters"], model["active_parameters"]
    yield "parameters", f"{parameters / 1e6:,.1f} M, {active / 1e6:,.1f} M of them active for each token"
    if model["experts"]:
        yield "experts", f"{model['experts']} in a layer, {model['active_experts']} for each token"
    yield "KV cache", f"{model['kv_bytes_per_token'] / 1024:.1f} KiB for each token"
