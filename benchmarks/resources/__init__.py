"""Registers, shared memory and spills of every kernel that runs on a GPU, from the compiler: no GPU is needed."""
