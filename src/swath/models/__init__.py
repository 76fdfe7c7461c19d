"""Models, each one function loaded by its name (`swath.registry`)."""
