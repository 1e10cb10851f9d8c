"""What "as exact as torch" means for a fused kernel, which Triton's interpreter runs here.

On a CUDA machine `STILTS_TEST_DEVICE=cuda python -m pytest tests/kernels/fused` compiles and runs the kernels there.
"""

import importlib.util
import os

import pytest
import torch

ON_GPU = os.environ.get("STILTS_TEST_DEVICE") == "cuda"
collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]
if ON_GPU:
    collect_ignore_glob += ["test_ahead.py", "test_traffic.py"]      # of the compiler and the interpreter


@pytest.fixture(autouse=ON_GPU)
def on_gpu():
    """Tensors are made on the GPU; its products in float32 are exact, as torch's own are by default."""
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@pytest.fixture(scope="session")
def as_exact():
    """`as_exact(found, exact, own, multiple)`: `found` has the shape and dtype of `own`, torch's own result in that
    dtype, and its largest error against `exact`, the float64 reference's, is at most `multiple` times that of `own`
    plus `places` units in the last place of the largest value."""
    def check(found: torch.Tensor, exact: torch.Tensor, own: torch.Tensor, multiple: float, places: int = 1) -> None:
        assert found.shape == own.shape and found.dtype == own.dtype
        if found.numel():
            error, own_error = ((tensor.double() - exact).abs().max().item() for tensor in (found, own))
            last_place = torch.finfo(own.dtype).eps * exact.abs().max().item()
            assert error <= multiple * own_error + places * last_place, (error, own_error, last_place)
    return check


@pytest.fixture(autouse=not ON_GPU)
def bfloat16_as_on_a_gpu(monkeypatch):
    """Triton 3.9's interpreter keeps bfloat16 as uint16: it multiplies matrices of those whole numbers, and makes them
    of float32 by cutting off. Here a matrix product widens them, and float32 is rounded to the nearest."""
    tl = pytest.importorskip("triton.language")
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def rounding(self, x, kind):
        if (x.dtype.scalar, kind.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, x, kind)
        return TensorHandle(torch.from_numpy(x.data).bfloat16().view(torch.uint16).numpy(), tl.bfloat16)

    def widening(self, *factors_and_more):
        return dot(self, *(cast(self, x, tl.float32) if isinstance(x, TensorHandle) and x.dtype.scalar == tl.bfloat16
                           else x for x in factors_and_more))

    monkeypatch.setattr(InterpreterBuilder, "cast_impl", rounding)
    monkeypatch.setattr(InterpreterBuilder, "create_dot", widening)
