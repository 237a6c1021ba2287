"""Read the pages that scripts write."""

from html.parser import HTMLParser

NASTY = '<b onload="x">&$1 _^ 日本'  # a class name that must be escaped


class Page(HTMLParser):
    """The elements of a page, the addresses that they load, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loads += [value for name, value in attrs if name in ("src", "href", "onload")]

    def handle_data(self, data):
        self.text += data


def read_page(path) -> Page:
    """Read a page and check that it loads nothing and that names are escaped."""
    page = Page(path.read_text(encoding="utf-8"))
    assert all(value.startswith("data:") for value in page.loads), "the page loads something"
    assert not {"script", "b"} & set(page.tags)
    return page
