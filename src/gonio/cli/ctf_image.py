"""The option that says what the volumes in rlnCtfImage hold, for lists that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gonio.io.ctf_images import CtfImage

CtfImageName = Annotated[
    str | None,
    typer.Option(
        "--ctf-image",
        metavar="squares|transfer|confidence",
        help="What the volumes in rlnCtfImage hold: sums of squared transfers (RELION 4 and 5), the transfer (RELION 3,"
        " Warp), or how much a frequency counts. Default: what the list says.",
    ),
]


def ctf_image_named(name: str | None) -> CtfImage | None:
    """Return what was asked for; ValueError, in the words of the command line, where it is nothing known."""
    from gonio.io.ctf_images import CtfImage

    if name is not None and name not in tuple(CtfImage):
        raise ValueError(f"--ctf-image must be one of {', '.join(CtfImage)}, got {name!r}")
    return None if name is None else CtfImage(name)
