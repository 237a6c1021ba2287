from tests.conftest import ROOT
from tools.document_config import PAGE, describe_type, format_page


def test_configuration_page_is_up_to_date():
    assert PAGE.read_text(encoding="utf-8") == format_page(), "run: python tools/document_config.py"
    assert PAGE == ROOT / "docs/configuration.md"


def test_describe_type_limits_and_alternatives_in_words():
    schema = {"anyOf": [{"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}}, {"type": "null"}]}
    assert describe_type(schema) == "list of number ≥ 0 and ≤ 1 or null"
