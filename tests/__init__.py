"""The tests mirror the packages: ``arch/`` segsr_arch, ``model/`` segsr_model."""

from pathlib import Path

ROOT = Path(__file__).parents[1]  # of the checkout
