"""Files of other programs: everything that gonio reads and writes; their conventions are known in this folder alone."""

from gonio.io.errors import FormatError
from gonio.io.lists import read_particles, write_particles
from gonio.io.maps import read_stack, read_volume, write_volume
from gonio.io.simulated import write_simulated

__all__ = [
    "FormatError",
    "read_particles",
    "read_stack",
    "read_volume",
    "write_particles",
    "write_simulated",
    "write_volume",
]
