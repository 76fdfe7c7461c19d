"""swath: from a satellite's swath to a trained model, a thematic map and a report."""
