"""What every run has: a folder that continues, progress, checkpoints."""
