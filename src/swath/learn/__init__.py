"""Learning: batches, tasks, one attempt of one run, and prediction."""
