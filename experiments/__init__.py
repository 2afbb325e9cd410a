"""The experiments of "Learning Manifold Dimensions with Conditional Variational Autoencoders"; the demonstration."""

if __name__ != "manifold_core.experiments":
    raise ImportError(f"this folder is the package manifold_core.experiments, but was imported as {__name__!r}")
