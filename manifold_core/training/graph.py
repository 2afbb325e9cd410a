"""CUDA graphs: a function's kernels, captured once and replayed without Python."""

import warnings
from collections.abc import Callable

import torch

__all__ = ["Replay", "captured", "cuda_graph"]

Replay = Callable[[], None]
WARM_UPS = 3  # as PyTorch's recipe has it: libraries choose their kernels in the first calls


def captured(function: Replay, capture: Callable[[Replay], Replay], device: torch.device, name: str) -> Replay | None:
    """What ``capture`` makes of the function; if it fails, None and a warning that calls it by that name."""
    # Streams and graphs are made on the current device, whatever that of the tensors.
    with torch.cuda.device(device if device.type == "cuda" else -1):
        try:
            return capture(function)
        except RuntimeError as error:
            cause = error.__context__ or error  # what happened in a capture, not that the capture could not end
            if not isinstance(cause, Exception):  # Ctrl+C
                raise cause from None
            reason = str(cause).partition("\n")[0]
            warnings.warn(
                f"{name} could not be captured into a CUDA graph and runs without one: {reason}",
                RuntimeWarning,
                stacklevel=2,
            )
            return None


def cuda_graph(function: Replay, warm_ups: int = WARM_UPS) -> Replay:
    """A CUDA graph of the function, by PyTorch's recipe: warmed up and captured on a stream that is not the default."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    # Otherwise capture on the current one: cuBLAS keeps a workspace for each stream, and PyTorch has only 32.
    if stream == torch.cuda.default_stream():
        stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph, stream=stream):
        function()
    replay: Replay = graph.replay
    return replay
