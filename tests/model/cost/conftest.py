"""Measurements in forked processes, which need not import PyTorch again, where memory does not matter."""

import multiprocessing

import pytest

FORK = multiprocessing.get_context('fork')


@pytest.fixture
def forked(monkeypatch):
    monkeypatch.setattr('segsr_model.cost.measuring.multiprocessing.get_context', lambda method: FORK)
