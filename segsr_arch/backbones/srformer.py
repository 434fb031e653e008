"""SRFormer as a backbone: a unit is a run of groups of blocks with permuted self-attention."""

from segsr_arch.backbones.windowed import WindowedBackbone
from segsr_arch.baselines.srformer_arch import SRFormer


class SRFormerBackbone(WindowedBackbone, SRFormer):
    """`SRFormer` with its own options (``embed_dim``, ``depths``, ...)."""
