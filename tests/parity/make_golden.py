"""Make the golden logits that `tests/runtime/model/test_golden.py` and the demo model's tests compare with.

    python tests/parity/make_golden.py [--demo-gguf FILE]

Needs the `parity` extra (torch and transformers); run from the repository's root after changing a tiny checkpoint.
transformers reads and dequantises the demo's GGUF by itself, so it checks our reader too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))
GOLDEN = TESTS / "runtime" / "fixtures" / "golden"

DEMO_PROMPT = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
)
TOP = 8
SLICE = 64


def transformers_logits(folder: Path, token_ids: list[int], *, gguf_file: str | None = None) -> np.ndarray:
    """Float32 logits [T, V] of one prompt, computed by transformers."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(2)
    arguments = {} if gguf_file is None else {"gguf_file": gguf_file}
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True, **arguments
    ).eval()
    with torch.no_grad():
        return model(torch.tensor([token_ids])).logits[0].float().numpy()


def main() -> None:
    """Write one .npz per tiny checkpoint, and one for the demo model when its GGUF is given."""
    from tiny_checkpoints import CONFIGS, PROMPT, write_checkpoint

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--demo-gguf", type=Path, help="SmolLM2-135M-Instruct.Q4_1.gguf; unset = leave the demo's alone"
    )
    options = parser.parse_args()
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for kind in CONFIGS:
        with tempfile.TemporaryDirectory() as folder:
            logits = transformers_logits(write_checkpoint(Path(folder), kind), list(PROMPT))
        np.savez_compressed(GOLDEN / f"{kind}.npz", token_ids=np.array(PROMPT, dtype=np.int32), logits=logits)
        print(f"{kind}: logits {logits.shape}, from {logits.min():.2f} to {logits.max():.2f}")
    if options.demo_gguf is not None:
        _demo(options.demo_gguf)


def _demo(gguf: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
    token_ids = tokenizer(DEMO_PROMPT, add_special_tokens=False)["input_ids"]
    logits = transformers_logits(gguf.parent, token_ids, gguf_file=gguf.name)
    top = np.argsort(-logits, axis=-1)[:, :TOP]
    np.savez_compressed(
        GOLDEN / "demo.npz",
        token_ids=np.array(token_ids, dtype=np.int32),
        top_ids=top.astype(np.int32),
        top_logits=np.take_along_axis(logits, top, axis=-1),
        first_logits=logits[:, :SLICE],
    )
    print(f"demo: {len(token_ids)} tokens, the next is {tokenizer.decode([int(top[-1, 0])])!r}")


if __name__ == "__main__":
    main()
