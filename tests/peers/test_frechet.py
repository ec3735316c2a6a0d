"""Group 8: Fréchet distance and feature statistics against the authors' evaluation code."""

from __future__ import annotations

import numpy as np
import pytest

from cagc.metrics.frechet import FeatureStatistics, frechet_distance

from .vectors import cases


def tolerance(case) -> float:
    # The peer's matrix square root is itself only good to a few 1e-8 when a covariance is rank-deficient.
    return 5e-8 if case.options["rank_deficient"] else 1e-9


@cases("8", "calc_fid")
def test_distance_from_the_stored_statistics(case):
    ours = frechet_distance(*(case.f64(n).numpy() for n in ("sample_mean", "sample_cov", "real_mean", "real_cov")))
    bound = tolerance(case)
    if min(case["sample_cov"].itemsize, case["real_cov"].itemsize) < 8:
        # Rounding to float32 moves every eigenvalue by 1e-7 of the largest, and the root of a zero one by 3e-4 of it.
        bound = 2e-4 if case.options["rank_deficient"] else 1e-6
    assert ours == pytest.approx(float(case["fid"]), rel=bound)


@cases("8", "calc_fid")
def test_distance_from_the_features(case):
    sample, real = case["sample_features"].numpy(), case["real_features"].numpy()
    a, b = FeatureStatistics("peer"), FeatureStatistics("peer")
    for statistics, features in ((a, sample), (b, real)):
        for rows in np.array_split(features, 7):
            statistics.update(rows)
    np.testing.assert_allclose(a.mean, case.f64("sample_mean").numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(a.cov, case["sample_cov"].numpy(), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(b.cov, case["real_cov"].numpy(), rtol=1e-6, atol=1e-7)
    assert a.distance(b) == pytest.approx(float(case["fid"]), rel=tolerance(case))
    if "fid_eig_ours" in case:
        assert a.distance(b) == pytest.approx(float(case["fid_eig_ours"]), rel=tolerance(case))
    assert b.distance(a) == pytest.approx(a.distance(b), rel=1e-12)
