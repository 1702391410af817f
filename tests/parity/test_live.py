"""Our reference against transformers on the same weights, computed now: `make parity`.

Needs the `parity` extra; the unit tests compare with what `make_golden.py` committed and need neither.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoints import CONFIGS, VOCAB_SIZE, write_checkpoint

from flash_runtime.engine.batch import Batch
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.families import recipe
from flash_runtime.model.reference import CheckpointWeights, ReferenceProvider

pytestmark = [
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("torch", "transformers")),
        reason="torch and transformers are not installed (extra `parity`)",
    ),
    # Their warnings are theirs to fix.
    pytest.mark.filterwarnings("default"),
]

GOLDEN = Path(__file__).parents[1] / "runtime" / "fixtures" / "golden"
LOGITS_TOLERANCE = 1e-3


def reference_logits(folder: Path, token_ids: list[int]) -> np.ndarray:
    checkpoint = open_checkpoint(folder)
    sources = recipe(checkpoint)
    weights = CheckpointWeights(checkpoint, sources)
    length = len(token_ids)
    provider = ReferenceProvider(sources.plan, weights, num_blocks=-(-length // 16), block_size=16)
    every = np.arange(length, dtype=np.int32)
    return provider.step(
        Batch(
            token_ids=np.array(token_ids, dtype=np.int32),
            positions=every,
            query_starts=np.array([0, length], dtype=np.int32),
            block_tables=np.arange(provider.num_blocks, dtype=np.int32)[None, :],
            logit_rows=every,
        )
    ).logits


@pytest.mark.parametrize("length", [1, 40])
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_logits_equal_those_of_transformers(kind: str, length: int, tmp_path: Path) -> None:
    from parity.make_golden import transformers_logits

    folder = write_checkpoint(tmp_path, kind)
    token_ids = np.random.default_rng(length).integers(0, VOCAB_SIZE, length).tolist()
    difference = np.abs(reference_logits(folder, token_ids) - transformers_logits(folder, token_ids)).max()
    assert difference <= LOGITS_TOLERANCE


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_committed_goldens_are_what_transformers_says_today(kind: str, tmp_path: Path) -> None:
    from parity.make_golden import transformers_logits

    folder = write_checkpoint(tmp_path, kind)
    with np.load(GOLDEN / f"{kind}.npz") as golden:
        np.testing.assert_allclose(
            transformers_logits(folder, golden["token_ids"].tolist()), golden["logits"], atol=LOGITS_TOLERANCE
        )


def test_our_tokenizer_from_gguf_agrees_with_that_of_transformers(tmp_path: Path) -> None:
    """On the demo's own file where the cache has it: ordinary text, code, other scripts, digits, special tokens."""
    import os

    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    from flash_runtime.model.cache import Cache, default_root
    from flash_runtime.model.download import pip_download
    from flash_runtime.model.sources import parse_source

    source = parse_source("builtin://smollm2-135m-instruct", revision=None, pip_download=pip_download)
    cache = Cache(default_root(os.environ))
    gguf = cache.root / "sources" / f"{source.digest(cache)}.gguf"
    if not gguf.exists():
        pytest.skip(f"the demo model is not in the cache ({gguf}); `flash-pull` puts it there")
    ours = Tokenizer.from_buffer(open_checkpoint(gguf).text().tokenizer_json)
    theirs = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    texts = [
        "The quick brown fox, 12345.67!",
        "def f(x):\n\treturn  x + 1  # naïve\r\n",
        "東京 Привет 🙂 e\u0301",
        "<|im_start|>user\nHi<|im_end|>\n",
        "",
        "   leading and trailing   ",
    ]
    for text in texts:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, add_special_tokens=False).ids == expected, text
