"""Reports of runs: a self-contained page with pictures of one run, or of several compared.

Nothing here is imported by the rest of the search before it ends: matplotlib, scipy and
latex2mathml would be a large part of the import time of every worker.
"""

from nos_optax.search.reports.page import results_html as results_html
from nos_optax.search.reports.read import Run as Run
from nos_optax.search.reports.read import read_run as read_run
from nos_optax.search.reports.write import write_comparison as write_comparison
from nos_optax.search.reports.write import write_report as write_report
