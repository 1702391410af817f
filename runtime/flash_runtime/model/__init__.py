"""From a checkpoint to a packed model: sources, formats, architecture families, the layer plan and its reference."""
