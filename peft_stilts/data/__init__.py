"""From rows to features, and from features to packs."""
