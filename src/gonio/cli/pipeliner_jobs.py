"""Jobs of the CCP-EM Pipeliner, and so of Doppio: ``gonio.align`` and ``gonio.refine``.

The Pipeliner finds them by the entry points of gonio's package, group ``ccpem_pipeliner.jobs``, and it alone imports
this module: gonio does not need it. Results are in the folder ``gonio`` of the job's, as of RELION's external jobs.
"""

from __future__ import annotations

from pathlib import Path

from pipeliner.job_options import (
    EXT_MRC_MAP,
    EXT_STARFILE,
    BooleanJobOption,
    FileDescription,
    FloatJobOption,
    InputNodeJobOption,
    IntJobOption,
    StringJobOption,
)
from pipeliner.nodes import NODE_DENSITYMAP, NODE_MASK3D, NODE_PARTICLEGROUPMETADATA
from pipeliner.pipeliner_job import ExternalProgram, PipelinerCommand, PipelinerJob, Ref

from gonio.jobs.relion_job import RelionJob


def _map(label: str, node_type: str, help_text: str, **more: object) -> InputNodeJobOption:
    pattern = FileDescription("MRC map", EXT_MRC_MAP)
    return InputNodeJobOption(label=label, node_type=node_type, pattern=pattern, help_text=help_text, **more)


class GonioJob(PipelinerJob):
    """A command of gonio on a particle list, with the options that RELION's form has too."""

    OUT_DIR = "Gonio"
    # The command, and what it is called there.
    COMMAND, TITLE = "", ""

    def __init__(self) -> None:
        super().__init__()
        self.jobinfo.display_name = self.TITLE
        self.jobinfo.short_desc = self.TITLE
        self.jobinfo.long_desc = f"{self.TITLE}: gonio {self.COMMAND}. Any other option is an additional argument."
        self.jobinfo.programs = [ExternalProgram(command="gonio")]
        title = "High precision alignment of cryo-electron subtomograms through gradient-based parallel optimization"
        self.jobinfo.references = [
            Ref(authors=["Xu M", "Alber F"], title=title, journal="BMC Syst Biol", year="2012", volume="6", pages="S18")
        ]
        self.joboptions["in_parts"] = InputNodeJobOption(
            label="Input particles:",
            node_type=NODE_PARTICLEGROUPMETADATA,
            node_kwds=["relion"],
            pattern=FileDescription("Particles STAR file", EXT_STARFILE),
            help_text="Subtomograms or 2-D stacks, or their optimisation set.",
            is_required=True,
        )
        self._add_options()
        self.joboptions["symmetry"] = StringJobOption(
            label="Symmetry:", default_value="C1", help_text="Point group, its main axis along z."
        )
        self.joboptions["in_mask"] = _map("Mask:", NODE_MASK3D, "Where the reference has density; empty: a sphere.")
        self.get_runtab_options(threads=True, addtl_args=True)

    def _add_options(self) -> None:
        """Add the command's own options."""

    def _words(self) -> list[str]:
        """Return the command's own options as words."""
        return []

    def get_commands(self) -> list[PipelinerCommand]:
        """Return the command line; it goes on where it was cut off, or begins again with ``--overwrite``."""
        value = {name: option.get_string() for name, option in self.joboptions.items()}
        words = ["gonio", self.COMMAND, value["in_parts"], *self._words(), "--symmetry", value["symmetry"]]
        words += ["--mask", value["in_mask"]] if value["in_mask"] else []
        again = [] if self._is_given("--overwrite") else ["--resume"]
        words += ["--threads", value["nr_threads"], *again, "-o", str(self._job.results)]
        return [PipelinerCommand([*words, *self.parse_additional_args()])]

    def _is_given(self, option: str) -> bool:
        """Return whether an option is among the additional arguments."""
        return any(str(word).partition("=")[0] == option for word in self.parse_additional_args())

    @property
    def _job(self) -> RelionJob:
        return RelionJob(Path(self.output_dir))

    def create_output_nodes(self) -> None:
        """List nothing before the command has run: what it writes depends on the list."""

    def create_post_run_output_nodes(self) -> None:
        """List what the command has written."""
        for path, kind in self._job.nodes():
            node_type, _, *keywords = kind.split(".")
            name = path.relative_to(self._job.folder).as_posix()
            self.add_output_node(name, node_type, [*keywords, "gonio"])


class GonioAlign(GonioJob):
    """``gonio align``."""

    PROCESS_NAME, COMMAND, TITLE = "gonio.align", "align", "Align subtomograms to a map"

    def _add_options(self) -> None:
        self.joboptions["in_3dref"] = _map(
            "Reference:", NODE_DENSITYMAP, "The map that particles are aligned to.", is_required=True
        )

    def _words(self) -> list[str]:
        return ["--reference", self.joboptions["in_3dref"].get_string()]


class GonioRefine(GonioJob):
    """``gonio refine``, from a map, or without one from the poses in the list or from the particles alone."""

    PROCESS_NAME, COMMAND, TITLE = "gonio.refine", "refine", "Refine subtomograms and their map in two halves"

    def _add_options(self) -> None:
        self.joboptions["in_3dref"] = _map("Reference:", NODE_DENSITYMAP, "Map to start from; empty: see below.")
        self.joboptions["start_resolution"] = FloatJobOption(
            label="Its resolution (A):", default_value=60.0, hard_min=1.0, help_text="Up to which the map is used."
        )
        self.joboptions["local"] = BooleanJobOption(
            label="Search near the input poses?",
            default_value=False,
            help_text="Poses are nearly right. Without this and without a reference halves make maps of their own.",
        )
        self.joboptions["iterations"] = IntJobOption(
            label="Largest number of iterations:", default_value=12, hard_min=1, help_text="It ends by itself before."
        )

    def _words(self) -> list[str]:
        reference, local = self.joboptions["in_3dref"].get_string(), self.joboptions["local"].get_boolean()
        words = ["--iterations", self.joboptions["iterations"].get_string(), *(["--local"] if local else [])]
        if self._is_given("--continue-from"):
            return words  # which is a start, and excludes others
        if reference:
            start = self.joboptions["start_resolution"].get_string()
            return [*words, "--reference", reference, "--start-resolution", start]
        return words if local else [*words, "--denovo"]
