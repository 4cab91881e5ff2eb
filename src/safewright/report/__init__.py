"""Reports: scorecards and comparisons as one HTML file, Markdown, or a table for the terminal.

The JSON form of a report is the scorecards themselves (`safewright.runs.to_json`).
"""

from safewright.report.ablation import ablation_console, ablation_markdown, render_ablation, table_of
from safewright.report.matrix import matrix_console, render_matrix
from safewright.report.page import render_comparison, render_page
from safewright.report.svg import Figure, curve_figure
from safewright.report.tables import comparison_table, console_table, remarks, render_markdown
from safewright.report.treatment import layer_figures, render_treatment

__all__ = [
    "Figure",
    "ablation_console",
    "ablation_markdown",
    "comparison_table",
    "console_table",
    "curve_figure",
    "layer_figures",
    "matrix_console",
    "remarks",
    "render_ablation",
    "render_comparison",
    "render_markdown",
    "render_matrix",
    "render_page",
    "render_treatment",
    "table_of",
]
