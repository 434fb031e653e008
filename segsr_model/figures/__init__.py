"""``segsr compare`` and ``segsr maps``: the figures of the paper."""
