"""A checkpoint with an adapter merged into it, as a Hugging Face folder in bfloat16 that `flash pack` and others read.

One tensor is in memory at a time. No torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import processors

from flash_runtime.kernels.layout import to_bf16
from flash_runtime.model.checkpoint import Checkpoint, ExpertsConfig, ModelConfig, TextAssets
from flash_runtime.model.errors import CheckpointError, UnsupportedModel
from flash_runtime.model.families import recipe
from flash_runtime.model.hf_text import load_tokenizer
from flash_runtime.model.rope import LinearScaling, Llama3Scaling
from flash_runtime.training.adapter_file import Adapter, check_belongs

_BF16_BYTES: Final = 2
_MODEL_TYPES: Final = {"LlamaForCausalLM": "llama", "Qwen2MoeForCausalLM": "qwen2_moe"}
Shape = tuple[int, ...]


def merge(checkpoint: Checkpoint, adapter: Adapter, folder: Path) -> None:
    """Write the folder anew. Raises CheckpointError for an adapter that does not fit, UnsupportedModel."""
    check_belongs(adapter, checkpoint)
    shapes = _shapes(checkpoint)
    for module, pair in adapter.pairs.items():
        expected, found = shapes.get(f"{module}.weight"), (len(pair.b), pair.a.shape[1])
        if expected != found:
            has = "no such module" if expected is None else f"{list(expected)} there"
            raise CheckpointError(f"the adapter does not fit {checkpoint.path}: {module} is {list(found)}, {has}")
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(checkpoint, folder)
    _write_weights(folder / "model.safetensors", shapes, _tensors(checkpoint, adapter, shapes))


def _shapes(checkpoint: Checkpoint) -> dict[str, Shape]:
    """Every weight by its Hugging Face name."""
    found = recipe(checkpoint)
    shapes: dict[str, Shape] = {vector.tensor: vector.shape for vector in found.vectors.values()}
    for linear in [*found.linears.values(), *(one for stack in found.experts.values() for one in stack)]:
        if linear.part is not None:
            raise UnsupportedModel(
                f"{checkpoint.path}: its experts are stacked in one tensor, which is not merged here"
            )
        for module, rows in zip(linear.modules, linear.rows, strict=True):
            shapes[f"{module}.weight"] = (rows, linear.columns)
            if linear.bias:
                shapes[f"{module}.bias"] = (rows,)
    return shapes


def _tensors(
    checkpoint: Checkpoint, adapter: Adapter, shapes: Mapping[str, Shape]
) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    for name, shape in shapes.items():
        weight = checkpoint.tensor(name).reshape(shape)
        change = adapter.change(name.removesuffix(".weight"))
        yield name, to_bf16(weight if change is None else weight + change)


def _write_weights(path: Path, shapes: Mapping[str, Shape], tensors: Iterator[tuple[str, NDArray[np.uint16]]]) -> None:
    """The safetensors format, streamed: the length of the header, the header, the tensors one after the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + _BF16_BYTES * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    temporary = path.with_name(f".{path.name}.partial")
    with temporary.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for _, bits in tensors:
            file.write(np.ascontiguousarray(bits).tobytes())
    temporary.replace(path)


def _write_text(checkpoint: Checkpoint, folder: Path) -> None:
    """Everything but the weights: copied from a Hugging Face folder, written from what another format says."""
    if (checkpoint.path / "config.json").is_file():
        for file in sorted(checkpoint.path.iterdir()):
            if file.is_file() and not file.name.endswith((".safetensors", ".safetensors.index.json", ".bin")):
                shutil.copyfile(file, folder / file.name)
        return
    text, about = checkpoint.text(), checkpoint.about
    documents: dict[str, dict[str, Any]] = {
        "config.json": _config(checkpoint.path, checkpoint.config, text),
        "generation_config.json": {"eos_token_id": list(text.eos_token_ids)},
        "tokenizer_config.json": {
            "bos_token": text.bos_token,
            "eos_token": text.eos_token,
            "chat_template": text.chat_template,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.json").write_bytes(_tokenizer(text))
    card = {
        "license": about.license,
        "model_name": f"{about.name}-tuned",
        "attribution": f"tuned from {about.attribution}",
    }
    lines = "".join(f"{name}: {json.dumps(value)}\n" for name, value in card.items())
    (folder / "README.md").write_text(f"---\n{lines}---\n", encoding="utf-8")


def _tokenizer(text: TextAssets) -> bytes:
    """With the token that begins a text, where the model wants one: in this layout the tokenizer puts it there."""
    if not text.add_bos or text.bos_token is None:
        return text.tokenizer_json
    tokenizer = load_tokenizer(text.tokenizer_json, where="tokenizer.json")
    if tokenizer.encode("a").tokens[:1] != [text.bos_token]:
        bos = text.bos_token, tokenizer.token_to_id(text.bos_token)
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos[0]} $A", special_tokens=[bos])
    encoded: str = tokenizer.to_str()
    return encoded.encode()


def _config(path: Path, config: ModelConfig, text: TextAssets) -> dict[str, Any]:
    model_type = _MODEL_TYPES.get(config.architecture)
    if model_type is None or config.window is not None:
        known = ", ".join(_MODEL_TYPES)
        raise UnsupportedModel(f"{path}: {config.architecture} cannot be merged from this format; known: {known}")
    return {
        "architectures": [config.architecture],
        "model_type": model_type,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_width,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_context_tokens,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        "eos_token_id": list(text.eos_token_ids),
        "torch_dtype": "bfloat16",
        "sliding_window": None,
        "use_sliding_window": False,
        "rope_theta": config.rope.theta,
        **_rope_scaling(path, config),
        **({} if config.experts is None else _experts(config.experts)),
    }


def _rope_scaling(path: Path, config: ModelConfig) -> dict[str, Any]:
    match config.rope.scaling:
        case None:
            return {}
        case LinearScaling(factor):
            return {"rope_scaling": {"rope_type": "linear", "factor": factor}}
        case Llama3Scaling(factor, low, high, original):
            scaling = {"factor": factor, "low_freq_factor": low, "high_freq_factor": high}
            return {"rope_scaling": {"rope_type": "llama3", **scaling, "original_max_position_embeddings": original}}
        case other:
            raise UnsupportedModel(f"{path}: RoPE with {type(other).__name__} cannot be merged from this format")


def _experts(experts: ExpertsConfig) -> dict[str, Any]:
    return {
        "num_experts": experts.num_experts,
        "num_experts_per_tok": experts.top_k,
        "moe_intermediate_size": experts.width,
        "shared_expert_intermediate_size": experts.shared_width,
        "norm_topk_prob": experts.normalise,
        "mlp_only_layers": sorted(experts.dense_layers),
        "decoder_sparse_step": 1,
        "qkv_bias": False,
    }
