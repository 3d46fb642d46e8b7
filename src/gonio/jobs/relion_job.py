"""What RELION expects of an external job: its nodes, and the files that state how it ended.

RELION 4 and 5 start an external job as ``PROGRAM --o External/job012/ --in_parts LIST --in_3dref MAP --in_mask MAP
--LABEL VALUE ... --j N`` in the project's folder. The job states its results in RELION_OUTPUT_NODES.star, by paths from
there, and ends with one of three empty files. RELION asks it to end by RELION_JOB_ABORT_NOW.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gonio.jobs.files import write_text
from gonio.run.manifest import files_of_run

# Folder of gonio's own in that of the job, where RELION keeps files too.
RESULTS = "gonio"
NODES, ABORT = "RELION_OUTPUT_NODES.star", "RELION_JOB_ABORT_NOW"
# Results by their whole names, and their types in RELION 5 (its ``pipeline_jobs.h``); RELION 4 knows those of maps and
# masks.
TYPES = {
    r"(particles|kept)\.star": "ParticleGroupMetadata.star.relion",
    r"optimisation_set\.star": "TomoOptimisationSet.star.relion",
    r"(map|class_\d+|(class_\d+_)?sharpened)\.mrc": "DensityMap.mrc",
    r"(class_\d+_)?half[12]\.mrc": "DensityMap.mrc.halfmap",
    r"(class_\d+_)?mask\.mrc": "Mask3D.mrc",
    r"(class_\d+_)?local_resolution\.mrc": "Image3D.mrc.localresmap",
}


class End(Enum):
    """How a job ended, by the file that states it."""

    SUCCESS = "RELION_JOB_EXIT_SUCCESS"
    FAILURE = "RELION_JOB_EXIT_FAILURE"
    ABORTED = "RELION_JOB_EXIT_ABORTED"


@dataclass(frozen=True)
class RelionJob:
    """A job's folder, as seen from the project's."""

    folder: Path

    @property
    def results(self) -> Path:
        """Folder of the results."""
        return self.folder / RESULTS

    def begin(self) -> None:
        """Make the folder, and remove what states how an earlier run ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in (ABORT, *(end.value for end in End)):
            (self.folder / name).unlink(missing_ok=True)

    @property
    def is_to_end(self) -> bool:
        """True where RELION asks the job to end."""
        return (self.folder / ABORT).exists()

    def end(self, how: End) -> None:
        """State how the job ended, and its results where these are whole."""
        if how is End.SUCCESS:
            rows = "".join(f"{path.as_posix()} {kind}\n" for path, kind in self.nodes())
            labels = "_rlnPipeLineNodeName #1\n_rlnPipeLineNodeTypeLabel #2\n"
            write_text(self.folder / NODES, f"\n# version 50001\n\ndata_output_nodes\n\nloop_\n{labels}{rows}\n")
        (self.folder / ABORT).unlink(missing_ok=True)
        (self.folder / how.value).touch()

    def nodes(self) -> Iterator[tuple[Path, str]]:
        """Yield the results of the run that are there, by paths from the project, and their types."""
        made = [name for name in sorted(files_of_run(self.results) or ()) if (self.results / name).is_file()]
        for pattern, kind in TYPES.items():
            yield from ((self.results / name, kind) for name in made if re.fullmatch(pattern, name))
