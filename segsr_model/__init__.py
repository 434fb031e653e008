"""What happens around SeG-SR's networks. Importing this package registers `SemanticGuidedSRModel` with BasicSR."""

from segsr_model import basicsr_mends
from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel

__all__ = ['SemanticGuidedSRModel']

basicsr_mends.install()
