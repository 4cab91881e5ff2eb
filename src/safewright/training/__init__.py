"""Training with losses of our own: one loop, pure losses, and rows as tensors."""
