"""One page of what the experiments came to: their tables, pictures and words, in the order of docs/reproduce.md.

Reads what ``run_all.py`` leaves in a folder: NAME.md or else NAME.txt, and the pictures in NAME/.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from gonio.report import Chapter, Report, html
from gonio.run.provenance import versions

# Title, and how to read it.
CHAPTERS = {
    "noise_free": ("Noise-free pairs", "The floor of the method: what is left without noise and with every frequency."),
    "axis": ("Search around one axis", "One angle and the shift, the particles' normals known."),
    "tables_1_2": (
        "Tables 1 and 2: all orientations",
        "Median and median absolute deviation of the errors: the paper's best of four ways on its own phantom, its"
        " schedule run here, gonio's defaults, and the Cramer-Rao bound of the same pairs. Errors beyond 15 degrees are"
        " counted as wrong.",
    ),
    "tables_3_4": ("Tables 3 and 4: the axis is known", "As above, with the axis of each particle given."),
    "fig3_convergence": ("Figure 3: convergence", "How fast the paper's stochastic search converges."),
    "fig4_iterations": ("Figure 4: iterations", "Iterations of independent over stochastic refinement."),
    "fig5": ("Figure 5: averages", "Resolution of averages of aligned particles, beside that at the true poses."),
    "fig6": ("Figure 6: classes from all pairs", "Four complexes told apart by the dissimilarities of their pairs."),
    "wrong_optima": ("Wrong optima", "Where the score itself prefers a wrong pose, and what chooses better."),
    "inputs": ("What the scores are fed", "The same search on plain and on restored particles."),
    "scan": (
        "The scan over all orientations",
        "Every 5 degrees, shifts by FFT, without refinement: the paper's baseline.",
    ),
    "overlap": ("The overlap, held or moved", "Rotation gradients of RCS, and where the search ends with either."),
    "ribosomes_run": ("Real ribosomes", "Poses of RELION 5 against the atoms of 7P6Z, before and after refinement."),
    "ribosomes_noise": ("Ribosomes: noise", "How far a known signal comes back off in the noise of real images."),
    "ribosomes_everywhere": ("Ribosomes from all orientations", "The same particles without their input poses."),
}


def write_page(folder: Path) -> None:
    """``report.html`` of all that a folder holds; says where it is."""
    chapters = [one for name in CHAPTERS if (one := chapter_of(folder, name)) is not None]
    if not chapters:
        raise SystemExit(f"{folder} holds no results: run experiments/run_all.py first")
    facts = {
        "command": "python experiments/run_all.py",
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "paper": "Xu & Alber, BMC Syst. Biol. 6, S18 (2012)",
    }
    path = folder / "report.html"
    path.write_text(html(Report("The paper, reproduced", facts, chapters=chapters)), encoding="utf-8")
    print(f"wrote {path}")


def chapter_of(folder: Path, name: str) -> Chapter | None:
    """What an experiment left; None where it was not run."""
    title, reading = CHAPTERS[name]
    table, told = folder / f"{name}.md", folder / f"{name}.txt"
    pictures = {one.stem.replace("_", " "): one.read_bytes() for one in sorted((folder / name).rglob("*.png"))}
    tables = tables_of(table.read_text()) if table.exists() else {}
    text = told.read_text() if told.exists() and not tables else ""
    return Chapter(title, reading, tables, pictures, text) if tables or pictures or text else None


def tables_of(markdown: str) -> Mapping[str, list[list[str]]]:
    """The tables of a page in Markdown by the line above each."""
    tables: dict[str, list[list[str]]] = {}
    caption = before = ""
    for line in markdown.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            caption = before or caption or "Table"
            if not set(line) <= set("|-: "):
                tables.setdefault(caption, []).append(cells)
        elif line.strip():
            before = line.strip("#` ").replace("`", "")
    return tables
