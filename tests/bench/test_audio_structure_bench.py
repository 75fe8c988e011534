"""The benchmark measures what it says, at toy size: every row of every lag, on damped walks that have structure."""

import json

from inscape.bench.audio_structure import run
from inscape.metrics.structure_passes import MeasureConfig
from inscape.stats.conditioning import ConditioningConfig
from inscape.stats.kmeans import KMeansConfig


def test_every_row_is_measured():
    config = ConditioningConfig(mean_clusters=8, components=2, score_clusters=16, kmeans=KMeansConfig(restarts=1))
    found = run(1, 4, config, MeasureConfig(min_cluster=20, resamples=20))
    assert found["frames"] == 100 * 500, "ten speakers at least, or there are no new ones"
    assert found["rows"] == 3 * 2 * 3 * 5 * 3, "lags x (scheme, control) x schemes x slices x splits"
    assert 0.5 < found["vr_adjusted_eval_lag_1"] < 0.99
    assert found["largest_control_deviation"] < 0.02
    assert found["peak_gb"] >= found["peak_gb_before"] > 0.05
    parts = sum(found[f"{name}_seconds"] for name in ("moments", "fit", "measure"))
    assert 0.9 * found["wall_seconds"] < parts <= found["wall_seconds"]
    json.dumps(found, allow_nan=False)
