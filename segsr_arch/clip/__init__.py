"""CLIP's image tower: built and loaded by open_clip, with loralib's increments; reading weights files safely."""
