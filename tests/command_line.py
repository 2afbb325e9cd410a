"""Small runs from the command line, and what it prints."""

import os

# One thread: tensors of these sizes gain nothing from more, and both sides of a comparison must have as many.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
SMALL = ["--latent-dim", "3", "--hidden", "8", "--steps", "30", "--batch-size", "32", "--quiet"]
RESULTS = {"metrics.json", "weights.safetensors"}
PICTURES = {"variances.png", "curves.png"}


def only_line(text: str) -> str:
    (line,) = text.splitlines()
    return line
