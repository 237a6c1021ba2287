import numpy as np
import pytest

from libs.evaluation.metrics.average_precision import Matches, score_detections
from libs.evaluation.metrics.resampling import mean_over_classes, resample_ap
from tests.evaluation.cases import TIOUS, random_case
from tests.evaluation.oracles import resample_and_write_out


@pytest.mark.parametrize("seed", range(8))
def test_resample_ap_equals_ap_of_written_out_videos(seed):
    videos, found = random_case(seed)
    weights, copies = resample_and_write_out(found, videos, seed)
    matches = Matches(found, videos, TIOUS)
    ap = resample_ap(matches, weights)
    for row, (detections, copied) in zip(ap, copies, strict=True):
        expected = score_detections(detections, copied, TIOUS, keep_repeats=True)
        known = np.isin(matches.truth.classes, expected.labels)
        assert np.isnan(row[~known]).all()
        np.testing.assert_allclose(row[known], expected.ap, atol=1e-12)
        np.testing.assert_allclose(mean_over_classes(row[None])[0], expected.map, atol=1e-12)
