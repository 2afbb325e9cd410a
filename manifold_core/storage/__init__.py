"""What lies on the disk: files written whole, folders that one process has, checkpoints."""
