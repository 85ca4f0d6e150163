"""Worlds of five kinds, each in a few lines: `build` gives the world, `batch` what its loss reads."""
