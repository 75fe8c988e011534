"""Sounds with captions: audio folders with their manifests, or a built-in world of parametric sounds."""
