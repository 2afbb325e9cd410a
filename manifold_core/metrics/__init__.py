"""What is read off a trained model, and off the samples alone: losses, and dimensions."""
