"""Encoders, heads, stacks of adapters, and their files."""
