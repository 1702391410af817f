"""tritonserver's model repository for one engine or draft, as text. Pure: a config in, files out; writes nothing."""

from __future__ import annotations

from typing import Final

from flash_api.config.draft import DraftConfig
from flash_api.config.engine import EngineConfig
from flash_api.names import TRITON_DRAFT_MODEL, TRITON_MODEL
from flash_runtime import draft_wire, wire

FILE_MODEL_CONFIG: Final = f"{TRITON_MODEL}/config.pbtxt"
FILE_MODEL: Final = f"{TRITON_MODEL}/1/model.py"
FILE_ENGINE_CONFIG: Final = f"{TRITON_MODEL}/1/engine.json"

_MODEL: Final = '''"""What tritonserver loads: the engine's backend."""
from flash_runtime.backend.model import TritonPythonModel  # noqa: F401
'''

# One instance, because it batches inside; no batching by the server, because requests join and leave at every step.
_MODEL_CONFIG: Final = f"""\
name: "{TRITON_MODEL}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [
  {{ name: "{wire.INPUT_IDS}" data_type: TYPE_INT32 dims: [ -1 ] }},
  {{ name: "{wire.REQUEST}" data_type: TYPE_STRING dims: [ 1 ] }}
]
output [
  {{ name: "{wire.OUTPUT_IDS}" data_type: TYPE_INT32 dims: [ -1 ] }},
  {{ name: "{wire.EVENT}" data_type: TYPE_STRING dims: [ 1 ] }}
]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""


def model_repository(config: EngineConfig) -> dict[str, str]:
    """Relative path → content of every file of the repository."""
    return {
        FILE_MODEL_CONFIG: _MODEL_CONFIG,
        FILE_MODEL: _MODEL,
        FILE_ENGINE_CONFIG: config.model_dump_json(indent=2) + "\n",
    }


FILE_DRAFT: Final = f"{TRITON_DRAFT_MODEL}/1/model.py"

_DRAFT: Final = '''"""What tritonserver loads: the draft's backend."""
from flash_runtime.backend.draft_model import TritonPythonModel  # noqa: F401
'''

# A request is a hello or news, see draft_wire.
_DRAFT_CONFIG: Final = f"""\
name: "{TRITON_DRAFT_MODEL}"
backend: "python"
max_batch_size: 0
model_transaction_policy {{ decoupled: true }}
input [
  {{ name: "{draft_wire.HELLO}" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "{draft_wire.NEWS}" data_type: TYPE_INT32 dims: [ -1 ] optional: true }}
]
output [
  {{ name: "{draft_wire.WELCOME}" data_type: TYPE_STRING dims: [ 1 ] }},
  {{ name: "{draft_wire.GUESSES}" data_type: TYPE_INT32 dims: [ -1 ] }}
]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""


def draft_repository(config: DraftConfig) -> dict[str, str]:
    """Relative path → content of every file of a draft's repository."""
    return {
        f"{TRITON_DRAFT_MODEL}/config.pbtxt": _DRAFT_CONFIG,
        FILE_DRAFT: _DRAFT,
        f"{TRITON_DRAFT_MODEL}/1/draft.json": config.model_dump_json(indent=2) + "\n",
    }
