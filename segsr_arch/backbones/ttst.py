"""TTST as a backbone: a unit is a run of groups of blocks with top-k channel attention."""

from segsr_arch.backbones.windowed import WindowedBackbone
from segsr_arch.baselines.ttst_arch import TTST


class TTSTBackbone(WindowedBackbone, TTST):
    """`TTST` with its own options (``embed_dim``, ``depths``, ...)."""
