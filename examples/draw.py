"""Draws one image of a student with NumPy alone:  python examples/draw.py student.cagc 7 face.ppm"""

import sys
from pathlib import Path

import cagc_edge

student, seed, out = sys.argv[1:]
g = cagc_edge.Generator(student)
ws = g.mapping(cagc_edge.random_z(int(seed), 1, g.z_dim), truncation_psi=0.7)
image = g.pictures(ws)[0, :, :, :3]
Path(out).write_bytes(f"P6 {g.img_resolution} {g.img_resolution} 255\n".encode() + image.tobytes())
