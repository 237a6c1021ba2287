"""The metrics that --metrics selects."""

import importlib.util

import pytest

from libs.core.errors import ConfigError
from libs.evaluation.metrics import selection
from libs.evaluation.metrics.compute import METRICS
from libs.evaluation.metrics.selection import expand_metrics, parse_metrics


def test_expand_metrics_includes_sed_for_sounds_or_by_name(monkeypatch):
    monkeypatch.setattr(selection, "find_spec", lambda name: importlib.util.spec_from_loader(name, None))
    assert expand_metrics(("all",), sounds=True) == (tuple(METRICS), [])
    assert expand_metrics(("all", "sed"), sounds=False) == (tuple(METRICS), [])


def test_sed_without_its_libraries_names_the_extra(monkeypatch):
    monkeypatch.setattr(selection, "find_spec", lambda name: None)
    names, notes = expand_metrics(("all",), sounds=True)
    assert "sed" not in names
    assert len(notes) == 1
    assert '".[metrics]"' in notes[0]
    with pytest.raises(ConfigError, match=r"sed needs sed_scores_eval.*\.\[metrics\]"):
        parse_metrics("map,sed")
