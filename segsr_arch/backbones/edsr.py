"""EDSR as a backbone: a unit is a run of residual blocks."""

from basicsr.archs.edsr_arch import EDSR

from segsr_arch.backbones.convolutional import ConvolutionalBackbone


class EDSRBackbone(ConvolutionalBackbone, EDSR):
    """BasicSR's EDSR with its own options (``num_feat``, ``num_block``, ...)."""

    blocks = 'residual blocks (num_block)'
