"""Golden numbers of the published code: the copy in tests/golden_data, and the whole folder if it is there."""

from pathlib import Path

import pytest

from tests.conftest import NEEDS_SHARED, SHARED
from tests.golden import CHECKS, run_checks

COPY = Path(__file__).parent / "golden_data"


@pytest.mark.parametrize("pattern", CHECKS)
def test_golden_data_in_tolerance(pattern):
    checks = run_checks(COPY, pattern)
    assert checks, "tests/golden_data lacks this file"
    assert [check for check in checks if not check.passed] == []


@NEEDS_SHARED
@pytest.mark.parametrize("pattern", CHECKS)
def test_shared_golden_in_tolerance(pattern):
    assert [check for check in run_checks(SHARED / "golden", pattern) if not check.passed] == []
