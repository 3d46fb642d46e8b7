"""Files of other programs: everything that gonio reads and writes; their conventions are known in this folder alone.

Whatever reads or writes a file raises ``FormatError``, which names the file, what is wrong and what to do: a file is
missing, empty, broken, cut off or not of its format, a column or a value is missing or not what it must be, a particle
cannot be loaded, a library is not installed, a folder cannot be written to. Docstrings state what else they raise.
"""

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
