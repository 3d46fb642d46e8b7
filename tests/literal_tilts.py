"""RELION 5's projection by its formula, on the columns of a file and with nothing of gonio's geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gonio.io.blocks import read_star


def literal_series(folder: Path, name: str = "TS_01") -> list[tuple[np.ndarray, np.ndarray]]:
    """The rotation and the shift of each image, read from the file by RELION's formula and nothing of ours."""
    block = read_star(folder / "tilt_series" / f"{name}.star").blocks[0]
    x, y, z, dx, dy = (
        np.array(block.columns[f"rlnTomo{label}"], dtype=float)
        for label in ("XTilt", "YTilt", "ZRot", "XShiftAngst", "YShiftAngst")
    )
    found = []
    for i in range(len(x)):
        a, b, c = np.radians([x[i], y[i], z[i]])
        rx = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
        ry = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
        rz = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
        found.append((rz @ ry @ rx, np.array([dx[i], dy[i]])))
    return found


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """The rms difference of two arrays after the best scale, over the rms of the second."""
    scale = (one * other).sum() / (one**2).sum()
    return float(np.sqrt(((scale * one - other) ** 2).mean() / (other**2).mean()))
