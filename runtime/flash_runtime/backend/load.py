"""From a config to a provider that is ready to run: opens the packed model, makes its KV cache, warms it up."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from flash_api.config.draft import DraftConfig
from flash_api.config.engine import EngineConfig
from flash_api.names import ENV_HOSTS, PACKED_MODEL
from flash_api.v1alpha1.engine import DraftMode
from flash_runtime.draft_wire import PROTOCOL, Hello
from flash_runtime.engine.batch import Batch, Provider
from flash_runtime.engine.draft import InProcessDraft
from flash_runtime.engine.lookup import PromptLookup
from flash_runtime.engine.loop import EngineLimits
from flash_runtime.engine.proposals import Proposer
from flash_runtime.engine.remote import Link, RemoteDraft
from flash_runtime.engine.speculation import Speculation
from flash_runtime.wire import vocabulary_of

if TYPE_CHECKING:
    from flash_runtime.backend.draft_link import DraftLink
    from flash_runtime.packed import PackedFile

_DRAFT_BLOCK_TOKENS: Final = 16


@dataclass(frozen=True)
class Loaded:
    """A provider and the tokens that end an answer of its model."""

    provider: Provider
    eos_token_ids: Collection[int]
    expert_load: Callable[[], NDArray[np.int64] | None] = lambda: None
    """Tokens that each expert was given so far [layers, experts]; None for a dense model. From any thread."""
    draft: Provider | None = None
    """The small model that proposes, where the config names one."""
    vocabulary: str = ""
    """What its token ids mean, as `wire.vocabulary_of` names it; empty = not known."""


def load(config: EngineConfig) -> Loaded:
    """Open the packed model of `config.model_dir` for this machine's CPU. Raises PackedError or ValueError if unfit."""
    # Imported here: the rest of the backend works, and is tested, without the native part.
    from flash_runtime.kernels.provider import CpuProvider, KvDtype

    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if config.kv_cache_bytes > memory_bytes:
        # The cache takes memory only as it fills, so nothing else would refuse it before the machine is out of it.
        raise ValueError(
            f"kv_cache_bytes ({config.kv_cache_bytes}) must not exceed this machine's memory ({memory_bytes} bytes)"
        )
    packed = _open(Path(config.model_dir))
    provider = CpuProvider(
        packed,
        kv_cache_bytes=config.kv_cache_bytes,
        kv_dtype=KvDtype(config.kv_cache_dtype),
        threads=config.threads,
        active_experts=config.active_experts,
    )
    draft = None
    if config.draft is not None and config.draft.mode is DraftMode.IN_PROCESS:
        draft = load_draft(config, packed, num_tokens=provider.num_blocks * provider.block_size)
    vocabulary = vocabulary_of(packed.text_bytes("tokenizer.json"))
    return Loaded(provider, packed.header["text"]["eos_token_ids"], provider.expert_load, draft, vocabulary)


def load_draft(config: EngineConfig, target: PackedFile, *, num_tokens: int) -> Provider:
    """The draft's provider, with a KV cache for as many tokens as the target's. Raises PackedError or ValueError."""
    from flash_runtime.kernels.provider import CpuProvider, KvDtype, block_bytes
    from flash_runtime.model.plan import ModelPlan

    assert config.draft is not None
    if config.draft.model_dir is None:
        raise ValueError("draft.model_dir must be set when draft.mode is InProcess: the folder of its model.flash")
    packed = _open(Path(config.draft.model_dir))
    hashes = [hashlib.sha256(one.text_bytes("tokenizer.json")).hexdigest() for one in (target, packed)]
    if hashes[0] != hashes[1]:
        raise ValueError(
            f"{packed.path}: the draft has another tokenizer (sha256 {hashes[1]}) than {target.path} ({hashes[0]}), so "
            "its tokens mean something else; choose a draft of the same family"
        )
    kv_dtype = KvDtype(config.kv_cache_dtype)
    one = block_bytes(ModelPlan.from_json(packed.header["model"]), _DRAFT_BLOCK_TOKENS, kv_dtype)
    return CpuProvider(
        packed,
        kv_cache_bytes=-(-num_tokens // _DRAFT_BLOCK_TOKENS) * one,
        block_size=_DRAFT_BLOCK_TOKENS,
        kv_dtype=kv_dtype,
        threads=config.threads,
    )


def load_alone(config: DraftConfig) -> Loaded:
    """Open the packed model of a draft that is a process of its own. Raises PackedError or ValueError if unfit."""
    from flash_runtime.kernels.provider import CpuProvider, KvDtype

    packed = _open(Path(config.model_dir))
    provider = CpuProvider(
        packed,
        kv_cache_bytes=config.kv_cache_bytes,
        block_size=_DRAFT_BLOCK_TOKENS,
        kv_dtype=KvDtype(config.kv_cache_dtype),
        threads=config.threads,
    )
    return Loaded(provider, (), vocabulary=vocabulary_of(packed.text_bytes("tokenizer.json")))


def draft_link(config: EngineConfig, loaded: Loaded, *, clock: Callable[[], float]) -> DraftLink | None:
    """The way to the draft pods that the config names, not started; None without them."""
    draft = config.draft
    if draft is None or draft.mode is not DraftMode.PODS:
        return None
    from flash_runtime.backend.draft_link import DraftLink, resolve

    assert draft.rollout_revision is not None
    hosts = os.environ.get(ENV_HOSTS)
    return DraftLink(
        draft.endpoints,
        Hello(protocol=PROTOCOL, tokenizer=loaded.vocabulary, revision=draft.rollout_revision),
        clock=clock,
        draw=Random(),
        resolve=lambda endpoint: resolve(endpoint, Path(hosts) if hosts else None),
    )


def speculation(
    config: EngineConfig, loaded: Loaded, *, clock: Callable[[], float], link: Link | None = None
) -> Speculation | None:
    """What proposes tokens, as the config names it; None without a draft. A model has prompt lookup beside it."""
    draft = config.draft
    if draft is None or draft.mode is DraftMode.OFF:
        return None
    proposer: Proposer
    if draft.mode is DraftMode.PROMPT_LOOKUP:
        proposer = PromptLookup()
    elif draft.mode is DraftMode.IN_PROCESS:
        assert loaded.draft is not None
        proposer = InProcessDraft(loaded.draft)
    else:
        assert link is not None
        proposer = RemoteDraft(link, clock=clock)
    return Speculation(
        proposer,
        vocab_size=loaded.provider.vocab_size,
        clock=clock,
        lookahead=draft.lookahead,
        beside=None if proposer.is_free else PromptLookup(),
    )


def _open(folder: Path) -> PackedFile:
    from flash_runtime.model.variants import PACK_VERSION
    from flash_runtime.packed import PackedError, PackedFile

    packed = PackedFile.open(folder / PACKED_MODEL)
    if (version := packed.header.get("pack_version")) != PACK_VERSION:
        raise PackedError(
            f"{packed.path}: pack_version is {version}, this release runs {PACK_VERSION}; "
            "pull the model again (`flash-pull`)"
        )
    return packed


def limits(config: EngineConfig) -> EngineLimits:
    """The engine's limits as the config names them."""
    return EngineLimits(
        max_running=config.max_concurrent_requests,
        max_queued=config.max_queued_requests,
        max_batch_tokens=config.max_batch_tokens,
        max_context_tokens=config.max_context_tokens,
    )


def warm_up(provider: Provider) -> None:
    """One small step, so that the first request does not pay for first touches. Call it before the engine exists."""
    count = min(8, provider.block_size)
    provider.step(
        Batch(
            token_ids=np.zeros(count, dtype=np.int32),
            positions=np.arange(count, dtype=np.int32),
            query_starts=np.array([0, count], dtype=np.int32),
            block_tables=np.zeros((1, 1), dtype=np.int32),
            logit_rows=np.array([count - 1], dtype=np.int32),
        )
    )
