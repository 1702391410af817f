"""Compile the kernel for one GPU generation, without a GPU, and count what stands in its code, as JSON.

python compile_kernel.py CAPABILITY BLOCK_ROWS
"""

from __future__ import annotations

import json
import sys

import triton
from triton.backends.compiler import GPUTarget

from flash_runtime.kernels.cuda.kernel import BLOCK_N, GROUP_M, KERNEL, OPTIONS
from flash_runtime.kernels.layout import GROUP

POINTERS = {
    **{"x": "*i8", "x_scale": "*fp32", "weight": "*i8", "weight_scale": "*fp32"},
    **{"bias": "*fp32", "out": "*fp32", "pair_of_slot": "*i32", "expert_of_block": "*i32"},
}
SIZES = ("num_pairs", "num_blocks", "features", "groups", "pairs_per_row")


def main(capability: int, block_rows: int) -> None:
    """Print the counts."""
    constants = {
        "HAS_BIAS": True, "BLOCK_M": block_rows, "BLOCK_N": BLOCK_N, "GROUP_M": GROUP_M, "GROUP_K": GROUP
    }  # fmt: skip
    source = triton.compiler.ASTSource(
        fn=KERNEL,
        signature={**POINTERS, **dict.fromkeys(SIZES, "i32"), **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs={(index,): [["tt.divisibility", 16]] for index in range(len(POINTERS))},  # as torch allocates
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=dict(OPTIONS))
    ptx, machine = compiled.asm["ptx"], compiled.asm["sass"]
    counts = {
        "tensor_core": ptx.count("s32.s8.s8"),
        "spill": machine.count("LDL") + machine.count("STL"),
        "fused": machine.count("FFMA") + ptx.count("fma.rn.f32"),
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
