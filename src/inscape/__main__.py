"""`python -m inscape` is the inscape command."""

import sys

from inscape.cli import main

sys.exit(main())
