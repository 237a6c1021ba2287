"""Checks of annotations that one defect of the data does not show."""

import pytest

from tests.datasets.checks.defects import repeated_event
from tests.datasets.checks.tiny_data import remove_chance_defects, summarize, verify_tiny


@pytest.mark.parametrize(
    ("splits", "check", "severity"),
    [
        ({"test_split": "train"}, "train and test share videos", "error"),
        ({"val_split": "train"}, "train and val share videos", "warning"),
        ({"val_split": "test"}, "val and test share videos", "warning"),
    ],
)
def test_check_shared_videos_one_split_in_two_roles_is_found(tiny, splits, check, severity):
    remove_chance_defects(tiny)
    report = verify_tiny(tiny, **splits)
    assert {f.check: f.severity for f in report.findings} == {check: severity, "unused split": "note"}


def test_check_videos_repeats_that_training_drops_are_a_note(tiny):
    remove_chance_defects(tiny)
    repeated_event(tiny)
    found = summarize(verify_tiny(tiny, dataset={"drop_repeats": True}))
    assert {check: severity for (_, _, check), (severity, _) in found.items()} == {"repeated event": "note"}
