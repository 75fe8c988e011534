"""The beta tail and Student's quantile against scipy."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from inscape.stats.beta_tail import beta_survival, student_quantile


@given(st.floats(0.5, 5000), st.floats(0.5, 1e6), st.floats(-4, 8))
def test_the_tail_is_scipys(a, b, z):
    mean = a / (a + b)
    x = mean + z * (mean * (1 - mean) / (a + b + 1)) ** 0.5
    assert beta_survival(x, a, b) == pytest.approx(stats.beta.sf(x, a, b), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 5, 30, 250])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_quantile_is_scipys(confidence, freedom):
    assert student_quantile(confidence, freedom) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="positive parameters"):
        beta_survival(0.5, 0, 1)
    with pytest.raises(ValueError, match="0 < confidence < 1"):
        student_quantile(1.0, 3)
