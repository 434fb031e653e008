"""Networks of SeG-SR for BasicSR. Importing this package registers them with BasicSR."""

import _segsr_autoload

_segsr_autoload.install()

import basicsr  # noqa: E402, F401  (first: its import brings in SeG-SR's modules, which must find it complete)

from segsr_arch.baselines.bicubic_arch import Bicubic  # noqa: E402
from segsr_arch.baselines.hat_arch import HAT  # noqa: E402
from segsr_arch.baselines.haunet_arch import HAUNet  # noqa: E402
from segsr_arch.baselines.mfg_hmoe_arch import MFGHMoE  # noqa: E402
from segsr_arch.baselines.spt_arch import SPT  # noqa: E402
from segsr_arch.baselines.srformer_arch import SRFormer  # noqa: E402
from segsr_arch.baselines.ttst_arch import TTST  # noqa: E402
from segsr_arch.registration import register_yielding  # noqa: E402
from segsr_arch.segsr_arch import (  # noqa: E402
    SeGSR_EDSR,
    SeGSR_HAT,
    SeGSR_RCAN,
    SeGSR_SRFormer,
    SeGSR_SwinIR,
    SeGSR_TTST,
)

__all__ = ['HAT', 'SPT', 'TTST', 'Bicubic', 'HAUNet', 'MFGHMoE', 'SRFormer', 'SeGSR_EDSR', 'SeGSR_HAT', 'SeGSR_RCAN',
           'SeGSR_SRFormer', 'SeGSR_SwinIR', 'SeGSR_TTST']

for _network in (HAT, SPT, TTST, Bicubic, HAUNet, MFGHMoE, SRFormer):
    register_yielding(_network)
