"""Finding an image's latents, and moving them: projection, style mixing, morphing, directions."""
