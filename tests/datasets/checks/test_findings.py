"""Occurrences are grouped into findings."""

from libs.datasets.checks.findings import CHECKS, SEVERITIES, Occurrence, group_occurrences


def group_one(check, num_videos):
    findings = group_occurrences("TASK1", [Occurrence("train", check, "x", "zero")], {"train": num_videos})
    return [finding.severity for finding in findings]


def test_group_occurrences_few_strays_are_a_warning():
    assert group_one("all zero", 20) == ["warning"]
    assert group_one("all zero", 19) == ["error"]
    assert group_one("NaN", 1000) == ["error"]


def test_group_occurrences_one_finding_for_each_split_and_check():
    places = [("train", "NaN", "a"), ("test", "NaN", "b"), ("train", "Inf", "a"), ("train", "NaN", "c")]
    findings = [*group_occurrences("TASK1", [Occurrence(*place, "1 of 2 windows") for place in places], {})]
    assert [(f.split, f.check, [o.name for o in f.occurrences]) for f in findings] == [
        ("train", "NaN", ["a", "c"]),
        ("test", "NaN", ["b"]),
        ("train", "Inf", ["a"]),
    ]
    assert findings[0].to_dict() == {
        "task": "TASK1",
        "split": "train",
        "check": "NaN",
        "severity": "error",
        "cases": [{"name": name, "said": "1 of 2 windows"} for name in ("a", "c")],
        "count": 2,
        "advice": CHECKS["NaN"][1],
    }


def test_checks_have_a_severity_and_a_remedy():
    assert all(severity in SEVERITIES and remedy for severity, remedy in CHECKS.values())
