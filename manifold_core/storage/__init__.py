"""What is on the disk: files written whole, folders held by one process, checkpoints."""
