"""The planted runs and studies of the tests of report/ and core/ are seen from here as well."""

import sys
from pathlib import Path

for neighbour in ("report", "core"):
    sys.path.insert(0, str(Path(__file__).parent.parent / neighbour))
