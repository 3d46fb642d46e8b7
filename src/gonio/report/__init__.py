"""The report of a run: one HTML page with everything in it, to be read in a browser, on a telephone, or in ten years.

Flow: values (content) -> figures (plots, pictures, matrices, surface) and tables -> page. Matplotlib and plotly are
imported when a page is made. Knows nothing of files, commands or alignment.
"""

from gonio.report.content import Classes, Errors, Iteration, Matrix, Odd, Report
from gonio.report.odd import odd_particles
from gonio.report.page import html

__all__ = ["Classes", "Errors", "Iteration", "Matrix", "Odd", "Report", "html", "odd_particles"]
