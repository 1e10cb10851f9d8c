"""What "as exact as torch" means for a fused kernel, which Triton's interpreter runs here."""

import importlib.util

import pytest
import torch

collect_ignore_glob = [] if importlib.util.find_spec("triton") else ["test_*.py"]


@pytest.fixture(scope="session")
def as_exact():
    """`as_exact(found, exact, own, multiple)`: `found` has the shape and dtype of `own`, torch's own result in that
    dtype, and its largest error against `exact`, the float64 reference's, is at most `multiple` times that of `own`
    plus one unit in the last place of the largest value."""
    def check(found: torch.Tensor, exact: torch.Tensor, own: torch.Tensor, multiple: float) -> None:
        assert found.shape == own.shape and found.dtype == own.dtype
        if found.numel():
            error, own_error = ((tensor.double() - exact).abs().max().item() for tensor in (found, own))
            last_place = torch.finfo(own.dtype).eps * exact.abs().max().item()
            assert error <= multiple * own_error + last_place, (error, own_error, last_place)
    return check
