"""From finished tests to the paper's tables."""
