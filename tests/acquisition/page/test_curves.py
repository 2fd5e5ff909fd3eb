from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from acquisition.page.curves import Estimate, Estimates, GrowingCurve

READINGS = st.lists(
    st.tuples(st.floats(0, 1e6), st.floats(-1e9, 1e9) | st.just(math.nan)), min_size=1, max_size=400
).map(sorted)


@given(READINGS, st.integers(1, 40), st.integers(1, 50))
def test_a_curve_stays_small_and_keeps_its_peaks(readings, most, batch):
    curve = GrowingCurve(most)
    for begin in range(0, len(readings), batch):
        curve.add(readings[begin : begin + batch])
    times, values = curve.points()
    finite = [(time, value) for time, value in readings if math.isfinite(value)]
    assert len(times) <= 2 * most
    assert times == sorted(times)
    assert set(zip(times, values, strict=True)) <= set(finite)
    if finite:
        assert min(values) == min(value for _, value in finite)
        assert max(values) == max(value for _, value in finite)


def test_a_curve_is_thinned_evenly_however_long_it_grew():
    curve = GrowingCurve(50)
    curve.add((float(second), math.sin(second)) for second in range(40_000))
    times, _ = curve.points()
    early, late = (sum(low <= time < low + 10_000 for time in times) for low in (0, 30_000))
    assert abs(early - late) <= 0.2 * early


@given(st.integers(1, 3000), st.integers(2, 100))
def test_estimates_are_bounded_and_end_with_the_last(count, most):
    kept = Estimates(most)
    for number in range(count):
        kept.add(Estimate(float(number), 0.5, 0.1, number))
    frames = [estimate.frame for estimate in kept.all()]
    assert len(frames) <= most + 1
    assert frames[0] == 0
    assert frames[-1] == count - 1
    assert frames == sorted(set(frames))
