"""The golden numbers: the copy under tests/, and the whole folder where it lies beside the project."""

from pathlib import Path

import pytest

from tests.conftest import NEEDS_SHARED, SHARED
from tests.golden import CHECKS, run_checks

COPY = Path(__file__).parent / "golden_data"


@pytest.mark.parametrize("pattern", CHECKS)
def test_copy(pattern):
    checks = run_checks(COPY, pattern)
    assert checks, "the copy lacks this file"
    assert [check for check in checks if not check.passed] == []


@NEEDS_SHARED
@pytest.mark.parametrize("pattern", CHECKS)
def test_original(pattern):
    assert [check for check in run_checks(SHARED / "golden", pattern) if not check.passed] == []
