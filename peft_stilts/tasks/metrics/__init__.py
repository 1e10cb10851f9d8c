"""Metrics as pure functions: predictions and golds in, scores from 0 to 100 out."""
