"""segsr bench: what training with an option file costs."""
