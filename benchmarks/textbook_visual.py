"""Time one training step of the visual encoder as a textbook writes it, and as this package does.

    python benchmarks/textbook_visual.py

The textbook stands in src/inscape/bench/textbook_visual.py; the same figures come
from `./inscape bench visual-step --json`.
"""

import json

from inscape.bench.visual_step import run

if __name__ == "__main__":
    print(json.dumps(run(), indent=1))
