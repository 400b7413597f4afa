"""The paper's tables and figures: grids of runs, their results and comparisons."""

from pdrec_fast.studies.collect import collect
from pdrec_fast.studies.report import write_report
from pdrec_fast.studies.study import run_study

__all__ = ["collect", "run_study", "write_report"]
