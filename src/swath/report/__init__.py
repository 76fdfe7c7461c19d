"""The report of an experiment: figures, and the one page that holds them."""
