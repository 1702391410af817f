"""`flash lora`: a model tuned on chats, as an adapter and as a merged model to pack."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from flash_runtime.cli.terminal import BarReporter, Model, Revision, fail, failures_told, out, source_of, user_cache

if TYPE_CHECKING:
    from flash_runtime.model.checkpoint import Checkpoint
    from flash_runtime.training.chat_tokens import Encoded
    from flash_runtime.training.chats import Chat
    from flash_runtime.training.tuning import Tuned, Tuning

_SECONDS_BETWEEN_LINES: Final = 10.0
_TARGETS: Final = ("attention", "experts")


def lora(
    model: Model,
    chats: Annotated[
        Path | None,
        typer.Argument(help='JSON lines, each {"messages": [{"role": …, "content": …}, …]}.', show_default=False),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for adapter, merged model, checkpoints, log and plot.")
    ] = Path("tuned"),
    check: Annotated[
        bool, typer.Option("--check", help="Look at the chats, say what is wrong, train nothing.")
    ] = False,
    adapter: Annotated[
        Path | None,
        typer.Option(help="Merge this adapter (made here or by PEFT) instead of training one.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Tune on fewer than 500 chats all the same.")] = False,
    merge: Annotated[bool, typer.Option(help="Write the merged model, too, which `flash pack` takes.")] = True,
    targets: Annotated[
        str, typer.Option(help="What gets adapters: attention, experts (every FFN), or both, joined by a comma.")
    ] = "attention,experts",
    rank: Annotated[int, typer.Option(min=1, max=512, help="Width of an adapter; more can learn more.")] = 8,
    alpha: Annotated[
        float | None,
        typer.Option(min=0.001, help="What an adapter adds is multiplied by alpha / rank.", show_default="2 x rank"),
    ] = None,
    epochs: Annotated[float, typer.Option(min=0.01, max=1000, help="How often each chat is seen.")] = 2.0,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Chats of each step.")] = 8,
    learning_rate: Annotated[
        float, typer.Option(min=1e-8, max=1.0, help="AdamW's; lower it where the loss jumps.")
    ] = 2e-4,
    max_tokens: Annotated[int, typer.Option(min=16, max=8192, help="Longer chats are cut there.")] = 512,
    held_out: Annotated[
        float, typer.Option(min=0.01, max=0.5, help="Share of the chats that only measures, before and after.")
    ] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, max=256, help="CPU threads.", show_default="all")] = None,
    revision: Revision = None,
) -> None:
    """Tune a model on chats with adapters (LoRA) on attention and experts; its own weights stay as they are.

    A tenth of the chats is held out: how well the model foresees their answers is measured before and after. An
    interrupted run goes on from its last checkpoint. OUTPUT/adapter is laid out as PEFT does it, OUTPUT/merged is the
    tuned model. Training needs torch (`pip install 'flashplane[local,train]'`); --check and --adapter do not.

    Look first:   flash lora builtin://flash-tiny chats.jsonl --check

    Tune:         flash lora builtin://flash-tiny chats.jsonl -o tuned

    Then serve:   flash pack tuned/merged -o tuned.flash
    """
    with failures_told():
        from flash_runtime.model.errors import RequestError
        from flash_runtime.training.chats import check_enough, read_chats

        if (chats is None) == (adapter is None):
            raise RequestError("name a file of chats to tune on, or an adapter to merge (--adapter), and not both")
        if adapter is not None:
            _merge(_opened(model, revision), adapter, output)
            return
        assert chats is not None
        wanted = tuple(dict.fromkeys(part.strip() for part in targets.split(",")))
        if unknown := [part for part in wanted if part not in _TARGETS]:
            raise RequestError(f"--targets {targets}: {unknown[0]!r}, {' or '.join(_TARGETS)} is expected")
        found = read_chats(chats)
        if not check:
            check_enough(found, forced=force)
            if len(found) < 2:
                raise RequestError(f"{chats}: two chats are needed at least, one of them to measure with")
            if find_spec("torch") is None:
                fail("tuning needs torch: `pip install 'flashplane[local,train]'`; --check and --adapter do without")
        checkpoint = _opened(model, revision)
        encoded = _encoded(checkpoint, found, max_tokens)
        _tell_chats(chats, found, encoded, max_tokens)
        if check:
            check_enough(found, forced=force)
            return
        from flash_runtime.training.tuning import Tuning

        _tune(
            checkpoint,
            encoded,
            Tuning(wanted, rank, alpha or 2.0 * rank, epochs, batch, learning_rate, held_out, seed),
            output,
            provenance=_provenance(chats, max_tokens, seed),
            base=model,
            threads=threads,
        )
        if merge:
            _merge(checkpoint, output / "adapter", output)


def _opened(model: str, revision: str | None) -> Checkpoint:
    from flash_runtime.model.checkpoint import open_checkpoint

    source = source_of(model, revision)
    with BarReporter() as progress:
        return open_checkpoint(source.locate(user_cache(), progress))


def _encoded(checkpoint: Checkpoint, chats: list[Chat], max_tokens: int) -> Encoded:
    from datetime import UTC, datetime

    from flash_runtime.model.errors import RequestError
    from flash_runtime.text.assets import TextAssets, TextHeader
    from flash_runtime.text.chat import ChatTemplate
    from flash_runtime.text.tokenizer import Tokenizer
    from flash_runtime.training.chat_tokens import encode_chats

    text = checkpoint.text()
    header = TextHeader(
        chat_template=text.chat_template or "",
        bos_token=text.bos_token,
        eos_token=text.eos_token,
        eos_token_ids=text.eos_token_ids,
        add_bos=text.add_bos,
        special_tokens=text.special_tokens,
    )
    tokenizer = Tokenizer(TextAssets(tokenizer_json=text.tokenizer_json, header=header))
    # A template may write today's date; what is learned must not change with it.
    template = ChatTemplate(header, tokenizer, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    if not template.exists:
        raise RequestError(f"{checkpoint.path}: has no chat template, so it cannot be tuned on chats")
    longest = min(max_tokens, checkpoint.config.max_context_tokens)
    return encode_chats(chats, template, end_tokens=text.eos_token_ids, max_tokens=longest)


def _tell_chats(path: Path, chats: list[Chat], encoded: Encoded, max_tokens: int) -> None:
    out.print(f"{path}: {len(chats):,} chats, {encoded.learned_tokens:,} tokens to learn", soft_wrap=True)
    if encoded.cut:
        out.print(f"{encoded.cut:,} are longer than {max_tokens} tokens and are cut (--max-tokens)", soft_wrap=True)
    if encoded.left_out:
        out.print(f"{encoded.left_out:,} are left out: nothing to learn is left of them", soft_wrap=True)


def _provenance(chats: Path, max_tokens: int, seed: int) -> dict[str, str]:
    import platform
    from importlib.metadata import version

    from flash_runtime.model.cache import file_sha256

    packages = {package: version(package) for package in ("flashplane", "numpy", "torch")}
    digest = {f"text {chats.name}": file_sha256(chats), "max_tokens": str(max_tokens)}
    return {"seed": str(seed), "python": platform.python_version(), **packages, **digest}


def _tune(
    checkpoint: Checkpoint,
    encoded: Encoded,
    tuning: Tuning,
    output: Path,
    *,
    provenance: dict[str, str],
    base: str,
    threads: int | None,
) -> None:
    import json

    from flash_runtime.training.adapter_file import write_adapter
    from flash_runtime.training.curves import draw_losses
    from flash_runtime.training.tuning import tune

    run = output / "run"
    tuned = tune(checkpoint, encoded.examples, tuning, run, provenance=provenance, tell=_Told(), threads=threads)
    write_adapter(output / "adapter", tuned.adapter, base=base)
    (output / "report.json").write_text(json.dumps(_report(tuned, tuning), indent=2) + "\n", encoding="utf-8")
    if (run / "log.jsonl").is_file() and draw_losses(run / "log.jsonl", output / "loss.png"):
        out.print(f"{output / 'loss.png'}: the loss of each step", style="dim", soft_wrap=True)
    before, after = tuned.before, tuned.after
    out.print(
        f"{tuned.held_out_chats:,} held-out chats, {after.tokens:,} tokens: perplexity {before.perplexity:.4g} before, "
        f"{after.perplexity:.4g} after; same best token {before.same_top:.1%} before, {after.same_top:.1%} after",
        soft_wrap=True,
    )
    if after.loss >= before.loss:
        out.print(
            "[yellow]⚠[/yellow] on chats it was not trained on it got no better: more chats, fewer --epochs or a lower "
            "--learning-rate",
            soft_wrap=True,
        )
    out.print(f"[green]✓[/green] adapter: {output / 'adapter'}", soft_wrap=True)


def _report(tuned: Tuned, tuning: Tuning) -> dict[str, Any]:
    from dataclasses import asdict

    def figures(answers: Any) -> dict[str, float]:
        return {**asdict(answers), "perplexity": answers.perplexity}

    facts = tuned.adapter.facts
    return {
        "before": figures(tuned.before),
        "after": figures(tuned.after),
        "trained_chats": tuned.trained_chats,
        "held_out_chats": tuned.held_out_chats,
        "tuning": asdict(tuning),
        "facts": None if facts is None else facts.model_dump(mode="json"),
    }


def _merge(checkpoint: Checkpoint, adapter: Path, output: Path) -> None:
    from flash_runtime.training.adapter_file import read_adapter
    from flash_runtime.training.merged import merge

    folder = output / "merged"
    merge(checkpoint, read_adapter(adapter), folder)
    out.print(f"[green]✓[/green] merged: {folder}; pack it with `flash pack {folder}`", soft_wrap=True)


class _Told:
    """Says how training goes on, now and then."""

    def __init__(self) -> None:
        self._said = -_SECONDS_BETWEEN_LINES

    def __call__(self, figures: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if "step" in figures and now - self._said < _SECONDS_BETWEEN_LINES:
            return
        if "step" in figures:
            self._said = now
        words = " ".join(f"{name.replace('_', ' ')} {value:,.4g}" for name, value in figures.items())
        out.print(words, style="dim", soft_wrap=True)
