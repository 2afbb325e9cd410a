"""The types that have kernels, and the one that kernels compute in."""

import torch

F32, F64, BF16, F16 = DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def arithmetic(*dtypes: torch.dtype) -> torch.dtype:
    """What tensors of these types are computed in, by the contract: half precision accumulates in float32."""
    return F64 if F64 in dtypes else F32
