"""HAT as a backbone: a unit is a run of residual hybrid attention groups (RHAGs)."""

from segsr_arch.backbones.windowed import WindowedBackbone
from segsr_arch.baselines.hat_arch import HAT


class HATBackbone(WindowedBackbone, HAT):
    """`HAT` with its own options (``embed_dim``, ``depths``, ...)."""
