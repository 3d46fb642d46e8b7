"""Particles: pose, symmetry, wedge, CTF, tilt series, volume and list. Knows no Fourier space."""
