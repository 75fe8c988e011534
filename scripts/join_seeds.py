"""Judge seeds that were run in different folders together: python scripts/join_seeds.py results

Each phase that compares its seeds is judged by that gate where every declared seed has a run under FOLDER that counts
(`inscape status --out FOLDER` says which do), and across_seeds.json is written beside them. Runs of one folder need
none of this: `inscape run` judges them as they come.
"""

import argparse
from pathlib import Path

from inscape.core.runner import record_across_seeds
from inscape.core.study import SMOKE
from inscape.studies import all_studies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the runs lie, as results/ or runs/")
    folder = parser.parse_args().folder
    if not folder.is_dir():
        parser.error(f"{folder} is no folder; give the one that holds <study>/<phase>/<preset>")
    for study in all_studies():
        for phase in study.phases:
            for preset in phase.preset_names if phase.across_seeds else ():
                if preset == SMOKE:
                    continue
                verdict = record_across_seeds(study, phase, preset, folder, ())
                outcome = verdict.outcome if verdict else "not every declared seed has a run here that counts"
                print(f"{study.name}.{phase.code} {preset}: {outcome}")


if __name__ == "__main__":
    main()
