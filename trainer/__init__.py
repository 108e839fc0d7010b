"""Fast-GRPO: advantages, windows, loss, optimiser step, checkpoints and the Ray Train loop."""
