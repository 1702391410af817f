"""From nothing to one token: `first_token.py MODEL_DIR THREADS`. The bench takes the time from outside."""

from __future__ import annotations

import sys

from flash_api.config.engine import EngineConfig
from flash_runtime.backend.load import limits, load
from flash_runtime.engine.loop import Engine
from flash_runtime.wire import GenerateRequest

config = EngineConfig(
    served_model_name="bench", source="file:///bench", model_dir=sys.argv[1], threads=int(sys.argv[2])
)
engine = Engine(load(config).provider, limits=limits(config))
engine.add("0", list(range(1000, 1016)), GenerateRequest(max_tokens=1, ignore_eos=True))
outputs = engine.step()
print(outputs[0].token_ids[0], flush=True)
