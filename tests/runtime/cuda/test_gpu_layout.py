"""The packed file's lines become plain signed rows, and back in thought: nothing is lost, padding is zero."""

from __future__ import annotations

import numpy as np
import pytest
from fakes.packed_linears import packed_experts, packed_linear

from flash_runtime.kernels.cuda.layout import rows_of
from flash_runtime.kernels.layout import PackedLinear, unpack_linear


@pytest.mark.parametrize(("n", "k"), [(1, 1), (16, 64), (17, 65), (70, 130), (33, 4)])
def test_rows_times_scale_are_the_dequantised_weights(n: int, k: int) -> None:
    packed = packed_linear(n, k)
    rows = rows_of(packed.weight, packed.scale, n=n, k=k)
    assert rows.weight.shape == (1, n, -(-k // 64) * 64)
    dequantised = rows.weight[0, :, :k].astype(np.float32) * rows.scale[0, :, None]
    assert np.array_equal(dequantised, unpack_linear(packed, n=n, k=k))


def test_input_padding_is_zero() -> None:
    packed = packed_linear(5, 70)
    assert not rows_of(packed.weight, packed.scale, n=5, k=70).weight[:, :, 70:].any()


def test_each_expert_of_a_stack_is_what_it_is_alone() -> None:
    stack = packed_experts(3, 20, 66)
    rows = rows_of(stack.weight, stack.scale, n=20, k=66)
    for expert in range(3):
        one = PackedLinear(weight=stack.weight[expert], scale=stack.scale[expert])
        alone = rows_of(one.weight, one.scale, n=20, k=66)
        assert np.array_equal(rows.weight[expert], alone.weight[0])
        assert np.array_equal(rows.scale[expert], alone.scale[0])


def test_a_blob_of_another_size_is_refused() -> None:
    packed = packed_linear(20, 66)
    with pytest.raises(ValueError, match=r"packed \[40, 66\] linear does not fit 4096 weights and 32 scales"):
        rows_of(packed.weight, packed.scale, n=40, k=66)
