"""A test by BasicSR's test.py, and validation: inference, metrics, scores and the protocol that they depend on."""
