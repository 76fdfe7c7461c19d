"""Studies (sweeps): search spaces, rungs, scores, and tidy results."""
