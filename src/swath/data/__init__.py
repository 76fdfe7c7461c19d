"""Data: cards of datasets, fetching, readers, and the cutting of scenes into patches."""
