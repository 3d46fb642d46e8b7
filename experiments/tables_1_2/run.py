"""Tables 1 and 2 of the paper: nothing known of the orientation.

    python experiments/tables_1_2/run.py [--phantom sharp] [--pairs 100] [--method rcs_60 defaults] [--out DIR]

Every pair of the 24 cells by the paper's schedule (both scores, seeds at 60 and 45 degrees) and by gonio's defaults.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tables import run_tables

if __name__ == "__main__":
    run_tables(__doc__ or "", out="results/tables_1_2", axis=False)
