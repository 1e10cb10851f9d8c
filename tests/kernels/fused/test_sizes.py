"""The sizes of a launch are those that triton's own functions give."""

import triton

from peft_stilts.kernels.fused.sizes import parts, power_of_2


def test_they_are_tritons():
    for size in range(1, 300):
        assert power_of_2(size) == triton.next_power_of_2(size)
        assert all(parts(size, block) == triton.cdiv(size, block) for block in (1, 7, 64))
    assert parts(0, 64) == 0
