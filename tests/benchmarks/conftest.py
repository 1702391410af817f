"""The benchmark suites are programs, not a package: their modules are found where `run.py` finds them."""

import sys
from pathlib import Path

_BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path[:0] = [str(_BENCHMARKS), str(_BENCHMARKS / "engine")]
# Last: modules of this suite share names with those of others and of tests.
sys.path.append(str(_BENCHMARKS / "speculation"))
