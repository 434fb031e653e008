"""What networks cost: ``segsr profile`` counts, ``segsr bench`` measures."""
