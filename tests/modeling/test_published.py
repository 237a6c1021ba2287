"""Names of the published checkpoint."""

from libs.modeling.published import published_name
from libs.modeling.uniav import UniAV


def test_published_names_are_unique(config):
    names = [published_name(name) for name in UniAV(config).state_dict()]
    assert len(set(names)) == len(names)
