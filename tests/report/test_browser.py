"""The page in a real browser: nothing overflows, nothing complains, the surface is drawn."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from gonio import Volume
from gonio.report import Classes, Matrix, Outlier, Report, html

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")

# Stands first in the page and tells in its title what came of it.
PROBE = """
<script>
const told = [];
const note = text => told.push(String(text));
addEventListener('error', event => note(event.message));
addEventListener('unhandledrejection', event => note(event.reason));
for (const level of ['error', 'warn']) console[level] = (...words) => note(words.join(' '));
addEventListener('load', () => {
  Object.assign(document.body.style, {width: '@WIDTH@px', margin: 0});
  const look = () => {
    const inside = element => element.closest('.scroll, .wide figure, .scene, svg');
    const over = [...document.querySelectorAll('body *')].filter(element =>
      element.getBoundingClientRect().right > @WIDTH@ + 1 && !inside(element));
    const drawn = document.querySelectorAll('figure.surface[data-drawn]').length;
    document.title = JSON.stringify({told, drawn, over: over.map(element => element.outerHTML.slice(0, 60))});
  };
  setTimeout(look, @WAIT@);
});
</script>
"""


@pytest.fixture
def report(rng) -> Report:
    ball = Volume(np.exp(-((np.indices((16, 16, 16)) - 8.0) ** 2).sum(axis=0) / 18.0), 10.0)
    dissimilarity = 1.0 - np.kron(np.eye(2), np.ones((4, 4)))
    tree = linkage(squareform(dissimilarity), "average")
    return Report(
        "A run with a rather long title of_one_word_that_cannot_be_broken_anywhere_" * 2,
        {"command": "gonio align " + "/a/long/path/to/some/particles.star " * 5},
        [("median", "1.0 degrees", "lower is better")],
        curves={"half maps": np.linspace(1, -0.1, 9)},
        box_angstrom=160.0,
        maps={"average": ball},
        outliers=[Outlier("tomogram_17/particle_with_a_long_name_000017.mrc", "fits worse than the others", ball)],
        classes=Classes({f"class {i}": ball for i in range(5)}, [3, 2, 1, 1, 1]),
        matrix=Matrix(dissimilarity, dissimilarity, tree, np.repeat([1, 2], 4)),
        coverage=np.ones((16, 16, 16)),
    )


def seen(page: str, folder, *, width: int, wait_ms: int = 3000) -> str:
    file = folder / "page.html"
    probe = PROBE.replace("@WIDTH@", str(width)).replace("@WAIT@", str(wait_ms))
    file.write_text(page.replace("<head>", "<head>" + probe, 1), encoding="utf-8")
    options = "--headless=new --no-sandbox --disable-dev-shm-usage --use-angle=swiftshader --enable-unsafe-swiftshader"
    here = [
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={max(width, 500)},900",
        "--virtual-time-budget=15000",
    ]
    command = [CHROMIUM, *options.split(), *here, "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)[1]


@pytest.mark.parametrize("width", [1400, 400])
def test_page_fits_draws_and_complains_of_nothing(report, tmp_path, width):
    title = seen(html(report), tmp_path, width=width)
    assert title == '{"told":[],"drawn":1,"over":[]}'


def test_probe_sees_what_is_wrong(tmp_path):
    page = html(Report("x", {"command": "y"}))
    wrong = page.replace("</main>", "<div style='width: 900px'>wide</div><script>nothing.at.all</script></main>")
    title = seen(wrong, tmp_path, width=400, wait_ms=100)
    assert "nothing is not defined" in title
    assert "wide" in title
