"""Weights of networks: reading their files, loading them into a network, writing a file for release."""
