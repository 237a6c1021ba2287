"""Readers of event lists: what is detected, what is kept as text, and what is an error."""

from pathlib import Path

import pytest

from libs.core.errors import DataError
from libs.datasets.importing.readers import read_events, read_input

HEADER = "video,start,end,label"
ROWS = [("a", 0.5, 2.0, "dog"), ("a", 1.0, 3.25, "cat"), ("b", 0.0, 4.0, "dog"), ("c", 2.5, 3.0, "cat")]
TABLE = "\n".join([HEADER, *(",".join(map(str, row)) for row in ROWS), ""])
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1")


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def read_rows(path: Path) -> list[tuple]:
    rows = read_events(path).rows
    events = rows.loc[rows.start.notna(), ["video", "start", "end", "label"]]
    return [tuple(event) for event in events.itertuples(index=False)]


@pytest.mark.parametrize(
    "text",
    [
        TABLE,
        TABLE.replace(",", ";"),
        TABLE.replace(",", "\t"),
        TABLE.replace(",", "|"),
        TABLE.replace("\n", "\r\n"),
        TABLE.replace(",", ";").replace(".", ","),
        TABLE.replace(HEADER, "FileName, Onset ,Offset,Event Label"),
        "\n" + TABLE.replace("\n", "\n\n"),
        "label,end,note,start,video\n" + "".join(f'"{r[3]}",{r[2]},"x, y",{r[1]},{r[0]}\n' for r in ROWS),
        TABLE.replace("\n", ",,\n"),
    ],
    ids=["plain", "semicolon", "tab", "bar", "crlf", "decimal comma", "aliases", "blank lines", "order", "empty cells"],
)
def test_read_events_any_notation_and_encoding_same_rows(tmp_path, text):
    for encoding in ENCODINGS:
        assert read_rows(write(tmp_path / "e.csv", text, encoding)) == ROWS


def test_read_events_notes_say_what_was_detected(tmp_path):
    text = TABLE.replace("dog", "Geräusch").replace(",", ";").replace(".", ",").replace(HEADER.replace(",", ";"), "")
    events = read_events(write(tmp_path / "e.csv", "video;start;end;label;who" + text, "latin-1"))
    assert events.rows.label.tolist() == ["Geräusch", "cat", "Geräusch", "cat"]
    notes = "\n".join(events.notes)
    for part in ("Latin-1", "Geräusch", "semicolons", "not used: who", "0,5 is read as 0.5 s"):
        assert part in notes
    assert not read_events(write(tmp_path / "plain.csv", TABLE)).notes


def test_read_events_names_like_numbers_and_missing_values_stay_text(tmp_path):
    names = ("007", "1.50", "1e5", "NA", "nan", "null", "None", "true", "-")
    text = "\n".join([HEADER, *(f"{name},0,1,{name}" for name in names)])
    assert read_rows(write(tmp_path / "e.csv", text)) == [(name, 0.0, 1.0, name) for name in names]


def test_read_events_row_without_event_is_a_video_without_events(tmp_path):
    text = "filename\tonset\toffset\tevent_label\nx.wav\t0.5\t1.5\tdog\ny_30.000_40.000.wav\t\t\t\nz.wav\n"
    rows = read_events(write(tmp_path / "d.tsv", text)).rows
    assert rows.video.tolist() == ["x.wav", "y_30.000_40.000.wav", "z.wav"]
    assert rows.start.isna().tolist() == rows.label.isna().tolist() == [False, True, True]


def test_read_events_rows_are_lines_of_the_file(tmp_path):
    """A cell in quotes may have several lines; blank lines count."""
    text = 'video,start,end,label,note\na,0,1,"big, ""old"" dog","two\nlines"\n\nb,0,1,cat,\n'
    path = write(tmp_path / "e.csv", text)
    rows = read_events(path).rows
    assert rows.source.tolist() == [f"{path}, row 3", f"{path}, row 5"]
    assert rows.label.tolist() == ['big, "old" dog', "cat"]


BAD_TABLES = {
    "missing column": (TABLE.replace("label", "what"), "e.csv, row 1: no column label (event_label"),
    "no header": (TABLE.split("\n", 1)[1], "e.csv, row 1: no column video"),
    "two meanings": (
        TABLE.replace(HEADER, "video,start,onset,end,label"),
        "row 1: the columns start and onset all mean",
    ),
    "no number": (TABLE.replace("3.25", "soon"), "e.csv, row 3: end 'soon', expected seconds"),
    "NaN": (TABLE.replace("3.25", "nan"), "e.csv, row 3: end 'nan', expected seconds"),
    "infinite": (TABLE.replace("3.25", "1e400"), "e.csv, row 3: end '1e400', expected seconds"),
    "clock": (TABLE.replace("3.25", "0:03"), "e.csv, row 3: end '0:03', expected seconds"),
    "mixed commas": (TABLE.replace(",", ";").replace("3.25", "3,25"), "e.csv, row 3: end '3,25'"),
    "comma in comma": (TABLE.replace("3.25", "3,25"), "e.csv, row 3: more columns than the 4 of the header"),
    "no label": (TABLE.replace("3.25,cat", "3.25,"), "e.csv, row 3: no label"),
    "no start": (TABLE.replace("0.5,2.0", ",2.0"), "e.csv, row 2: no start"),
    "no video": (TABLE.replace("b,0.0", ",0.0"), "e.csv, row 4: no video name"),
    "open quote": (TABLE.replace("dog", '"dog', 1), "e.csv, row 2: not a row of a table; close its quotes"),
    "quote over rows": (TABLE.replace("dog", '"dog', 1).replace("cat", 'cat"', 1), "row 3: a line break in label"),
    "empty": ("", "e.csv: empty"),
    "binary": ("PK\x03\x04" + TABLE, "e.csv: not a text file"),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_read_events_bad_table_names_the_row(tmp_path, name):
    text, message = BAD_TABLES[name]
    with pytest.raises(DataError) as error:
        read_events(write(tmp_path / "e.csv", text))
    assert message in str(error.value)


def test_read_events_label_track(tmp_path):
    text = "0.5\t2.0\tdog\n\\\t100.0\t3000.0\n1\t3.25\tbig\tcat\n"
    assert read_rows(write(tmp_path / "a.txt", text)) == [("a", 0.5, 2.0, "dog"), ("a", 1.0, 3.25, "big cat")]
    assert read_rows(write(tmp_path / "b.txt", text.replace(".", ",")))[1] == ("b", 1.0, 3.25, "big cat")
    empty = read_events(write(tmp_path / "empty.txt", "")).rows
    assert (empty.video.tolist(), empty.start.isna().tolist()) == (["empty"], [True])
    with pytest.raises(DataError, match=r"c.txt, row 2: no label"):
        read_events(write(tmp_path / "c.txt", "0\t1\tdog\n2\t3\t\n"))
    with pytest.raises(DataError, match=r"d.txt, row 1: '0 1 dog', expected start, end and label separated by tabs"):
        read_events(write(tmp_path / "d.txt", "0 1 dog\n"), "audacity")


def test_read_input_folder_of_label_tracks(tmp_path):
    for name in "ba":
        write(tmp_path / f"{name}.txt", "0.5\t2.0\tdog\n")
    path, events = read_input(str(tmp_path))
    assert path == tmp_path
    assert events.rows.video.tolist() == ["a", "a", "b", "b"]
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no label tracks"):
        read_input(str(tmp_path / "none"))


def test_read_input_subset_must_agree_with_the_file(tmp_path):
    path = write(tmp_path / "e.csv", "video,start,end,label,subset\na,0,1,dog,train\n")
    assert read_input(f"train={path}")[1].rows.subset.tolist() == ["train"]
    with pytest.raises(DataError, match="row 2: subset train, but it is given as test="):
        read_input(f"test={path}")
