"""What happens around SeG-SR's networks. Importing this package registers `SemanticGuidedSRModel` with BasicSR.

``missing`` is why that could not be done, if a package is not there or cannot be loaded: ``segsr`` and the launchers in
``basicsr/`` say it in one line, and commands that need no BasicSR work without it.
"""

from __future__ import annotations

missing: Exception | None = None
try:
    import segsr_arch  # noqa: F401  (first: it mends BasicSR before anything imports it)
    from segsr_model import basicsr_mends
    from segsr_model.semantic_guided_sr_model import SemanticGuidedSRModel
except (ImportError, OSError, RuntimeError) as error:  # what packages raise that are half there
    missing = error
else:
    basicsr_mends.install()

__all__ = ['SemanticGuidedSRModel', 'missing']
