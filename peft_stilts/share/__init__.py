"""Sharing: bundles of adapters as zips and on the hub, their cards, loading and merging them."""
