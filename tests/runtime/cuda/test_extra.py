"""Without torch or triton-lang the provider says which extra brings them."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORT_WITHOUT = "import sys; sys.modules[{missing!r}] = None; import flash_runtime.kernels.cuda.{module}"


@pytest.mark.parametrize(("missing", "module"), [("torch", "provider"), ("triton", "kernel")])
def test_importing_it_without_a_package_names_the_extra(missing: str, module: str) -> None:
    program = IMPORT_WITHOUT.format(missing=missing, module=module)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "GpuExtraMissing: the `cuda` provider needs the package t" in done.stderr
    assert "pip install 'flashplane[gpu]'" in done.stderr


def test_the_gpu_layout_and_the_placement_need_neither() -> None:
    program = "; ".join(
        [
            "import sys; sys.modules['torch'] = sys.modules['triton'] = None",
            "import flash_runtime.kernels.cuda.layout, flash_runtime.kernels.cuda.placement",
        ]
    )
    subprocess.run([sys.executable, "-c", program], check=True)
