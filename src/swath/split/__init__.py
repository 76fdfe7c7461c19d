"""Splits of a patch set into train, validation and test parts, and their audit."""
