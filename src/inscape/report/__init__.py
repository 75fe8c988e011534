"""Pages and tables that show what runs found: an HTML file a run, an index over all, and the README's tables.

A report reads run directories only. It measures nothing, decides nothing and imports no study, so it can be written
again for any run, long after the code that made it has changed.
"""

from inscape.report.evidence import collect
from inscape.report.index_page import write_index
from inscape.report.run_page import write_report
from inscape.report.tables import update_readme

__all__ = ["collect", "update_readme", "write_index", "write_report"]
