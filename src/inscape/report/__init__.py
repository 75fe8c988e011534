"""Pages that show what runs found: one self-contained HTML file a run, and an index over all of them.

A report reads run directories only. It measures nothing, decides nothing and imports no study, so it can be written
again for any run, long after the code that made it has changed.
"""

from inscape.report.index_page import write_index
from inscape.report.run_page import write_report

__all__ = ["write_index", "write_report"]
