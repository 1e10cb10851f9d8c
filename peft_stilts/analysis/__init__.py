"""What the results table says: the table and the picture at the end of a run."""
