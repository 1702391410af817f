"""Which layers a sliding window binds: the rules that several families share.

Each takes a layer's number and says how many positions a token of it sees (None = all before it).
"""

from __future__ import annotations

from flash_runtime.model.checkpoint import ModelConfig


def in_every_layer(config: ModelConfig, index: int) -> int | None:
    """The Mistral way: a window that the checkpoint gives binds every layer, whatever else it says."""
    return None if config.window is None else config.window.tokens


def in_every_layer_if_switched_on(config: ModelConfig, index: int) -> int | None:
    """Qwen3-MoE's way: one switch for all layers."""
    window = config.window
    return window.tokens if window is not None and window.switched_on else None


def in_upper_layers(config: ModelConfig, index: int) -> int | None:
    """The way of Qwen2 and Qwen3: off unless switched on, then the layers it lists, or those from max_window_layers."""
    window = config.window
    if window is None or not window.switched_on:
        return None
    bound = index >= window.first_layer if window.layers is None else window.layers[index]
    return window.tokens if bound else None


def in_even_lower_layers(config: ModelConfig, index: int) -> int | None:
    """Qwen2-MoE's way: off unless switched on, then the layers it lists, or every other one below max_window_layers."""
    window = config.window
    if window is None or not window.switched_on:
        return None
    bound = index % 2 == 0 and index < window.first_layer if window.layers is None else window.layers[index]
    return window.tokens if bound else None
