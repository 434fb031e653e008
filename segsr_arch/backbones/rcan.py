"""RCAN as a backbone: a unit is a run of residual groups."""

from basicsr.archs.rcan_arch import RCAN

from segsr_arch.backbones.convolutional import ConvolutionalBackbone


class RCANBackbone(ConvolutionalBackbone, RCAN):
    """BasicSR's RCAN with its own options (``num_feat``, ``num_group``, ``num_block``, ...)."""

    blocks = 'residual groups (num_group)'
