"""Whole scenes: super-resolved tile by tile with semantics of their own, on the map, in bounded memory."""
