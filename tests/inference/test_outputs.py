"""Output files of a video: their formats, and that no label or file name breaks out of them."""

import csv
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from libs.core.errors import UserError
from libs.core.types import Detections, Event
from libs.evaluation.results import read_results
from libs.inference.outputs import MAX_NAME_BYTES, format_summary, safe_name, write_outputs
from libs.inference.page import name_tasks, render_page
from libs.inference.result import VideoResult

TASKS = {"TASK1": "TAL", "TASK2": "AVEL", "TASK3": "SED"}
HOSTILE = (
    "<script>alert(1)</script>",
    "</script><!--<script>",
    "a --> b",
    "../../x",
    "\"quoted\" 'too' & &amp; so on",
    "two\nlines\r\nand\ttab",
    "👩‍🚒 Feuerwehr übt",
    "\x1b[31mred\x07",
    "half \udcff",
    "{{data}} {{title}}",
    "",
)
EVENTS = [
    Event("TASK3", "SED", "dog barking", 3661.5, 3662.25, 0.5),
    Event("TASK1", "TAL", "high jump", 1.0, 2.5, 0.875),
    Event("TASK3", "SED", "glass & stone", 0.0, 59.9999, 0.25),
]


def write(folder: Path, events: list[Event], **changes) -> dict[str, Path]:
    """Write the files of a clip; returns their paths by ending."""
    values = {"path": folder / "clip.mp4", "duration": 3700.0, "peaks": np.array([0.1, 0.5])} | changes
    paths = write_outputs(folder, VideoResult("clip", events=events, **values), TASKS)
    assert sorted(folder.iterdir()) == sorted(paths)
    return {path.suffix[1:]: path for path in paths}


def hostile_events() -> list[Event]:
    return [Event("TASK1", "TAL", label, i, i + 0.5, 0.5) for i, label in enumerate(HOSTILE)]


def text(path: Path) -> str:
    return path.read_bytes().decode()  # read_text would translate newlines


class Page(HTMLParser):
    """The elements of a page, and its data as a browser reads them."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text(path))
        self.data = json.loads(self.texts[[tag for tag, _ in self.tags].index("script")])

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.texts.append("")

    def handle_data(self, data):
        if self.texts:
            self.texts[-1] += data

    def attribute(self, tag: str, name: str) -> list[str]:
        return [attributes[name] for other, attributes in self.tags if other == tag and name in attributes]


def test_write_outputs_json_is_read_as_results(tmp_path):
    paths = write(tmp_path, EVENTS)
    tree = json.loads(text(paths["json"]))
    assert tree["results"]["clip"][0] == {"label": "high jump", "score": 0.875, "segment": [1.0, 2.5], "task": "TAL"}
    read: Detections = read_results(paths["json"], {0: "dog barking", 1: "high jump", 2: "glass & stone"})
    assert read.video_ids == ("clip",) and read.labels.tolist() == [1, 0, 2]


def test_write_outputs_csv_has_a_row_for_each_event(tmp_path):
    rows = list(csv.reader(text(write(tmp_path, EVENTS)["csv"]).splitlines()))
    assert rows[0] == ["task", "label", "start", "end", "score"]
    assert rows[1:] == [
        ["SED", "glass & stone", "0.000", "60.000", "0.2500"],
        ["TAL", "high jump", "1.000", "2.500", "0.8750"],
        ["SED", "dog barking", "3661.500", "3662.250", "0.5000"],
    ]


def test_write_outputs_subtitles_have_a_cue_for_each_event(tmp_path):
    paths = write(tmp_path, EVENTS)
    vtt, srt = text(paths["vtt"]), text(paths["srt"])
    assert vtt.startswith("WEBVTT\n\n1\n00:00:00.000 --> 00:01:00.000\nglass &amp; stone (SED 0.25)\n\n2\n")
    assert vtt.endswith("3\n01:01:01.500 --> 01:01:02.250\ndog barking (SED 0.50)\n")
    assert srt.startswith("1\n00:00:00,000 --> 00:01:00,000\nglass & stone (SED 0.25)\n\n2\n")


def test_write_outputs_empty_or_early_event_gets_a_valid_cue(tmp_path):
    events = [Event("TASK1", "TAL", "x", -0.5, -0.25, 0.5), Event("TASK1", "TAL", "x", 2.0, 2.0, 0.5)]
    vtt = text(write(tmp_path, events)["vtt"])
    assert re.findall(r".* --> .*", vtt) == ["00:00:00.000 --> 00:00:00.001", "00:00:02.000 --> 00:00:02.001"]


def test_write_outputs_txt_is_a_label_track(tmp_path):
    rows = text(write(tmp_path, EVENTS)["txt"]).splitlines()
    assert rows[1] == "1.000000\t2.500000\thigh jump" and len(rows) == 3


def test_write_outputs_no_events_writes_empty_files(tmp_path):
    paths = write(tmp_path, [], peaks=np.empty(0), path=None, duration=0.0)
    assert json.loads(text(paths["json"]))["results"] == {"clip": []}
    assert text(paths["csv"]) == "task,label,start,end,score\n"
    assert (text(paths["vtt"]), text(paths["srt"]), text(paths["txt"])) == ("WEBVTT\n\n", "", "")
    page = Page(paths["html"])
    assert page.data["source"] is None and page.data["peaks"] == []
    assert [(task["name"], task["meaning"], task["lanes"]) for task in page.data["tasks"]] == [
        ("TAL", "seen", []),
        ("AVEL", "seen and heard", []),
        ("SED", "heard", []),
    ]


def test_write_outputs_hostile_labels_stay_in_their_cues_and_rows(tmp_path):
    paths = write(tmp_path, hostile_events())
    for kind in ("vtt", "srt"):
        body = text(paths[kind]).removeprefix("WEBVTT\n\n")
        cues = [cue.strip("\n").split("\n") for cue in body.split("\n\n")]
        assert len(cues) == len(HOSTILE) and {len(cue) for cue in cues} == {3}
        assert all("-->" not in cue[2] and "<" not in cue[2] and cue[1].count("-->") == 1 for cue in cues)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text(paths["vtt"])
    rows = text(paths["txt"]).split("\n")
    assert rows.pop() == "" and len(rows) == len(HOSTILE) and {row.count("\t") for row in rows} == {2}
    assert "👩‍🚒 Feuerwehr übt" in text(paths["txt"]) and "two lines and tab" in text(paths["txt"])
    with paths["csv"].open(encoding="utf-8", newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert labels == [label.replace("\udcff", "?") for label in HOSTILE]
    assert [row["label"] for row in json.loads(text(paths["json"]))["results"]["clip"]] == list(HOSTILE)


def test_write_outputs_hostile_labels_stay_data_of_the_page(tmp_path):
    source = text(write(tmp_path, hostile_events(), notes=("</script><b>note",))["html"])
    page = Page(tmp_path / "clip.html")
    assert [tag for tag, _ in page.tags].count("script") == 2 and "b" not in {tag for tag, _ in page.tags}
    assert source.count("</script") == 2 and "<!--" not in source
    assert [lane["label"] for lane in page.data["tasks"][0]["lanes"]] == list(HOSTILE)
    assert page.data["notes"] == ["</script><b>note"]


def test_write_outputs_page_loads_nothing_from_outside(tmp_path):
    source = text(write(tmp_path, EVENTS)["html"])
    page = Page(tmp_path / "clip.html")
    assert "http:" not in source and "https:" not in source and "@import" not in source
    assert page.attribute("script", "src") == [] and page.attribute("link", "href") == ["data:,"]
    policy = page.attribute("meta", "content")[0]
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "unsafe" not in policy


@pytest.mark.parametrize(
    ("video", "url", "title"),
    [
        ("clip.mp4", "clip.mp4", "clip.mp4"),
        ("../über uns/a:b?#%41.mp4", "../%C3%BCber%20uns/a%3Ab%3F%23%2541.mp4", "a:b?#%41.mp4"),
        ('"><script>.mp4', "%22%3E%3Cscript%3E.mp4", '"><script>.mp4'),
        ("日本 語.webm", "%E6%97%A5%E6%9C%AC%20%E8%AA%9E.webm", "日本 語.webm"),
        (os.fsdecode(b"latin1 \xfc.mp4"), "latin1%20%FC.mp4", "latin1 .mp4"),
    ],
)
def test_write_outputs_page_links_the_video(tmp_path, video, url, title):
    folder = tmp_path / "out"
    write(folder, [], path=folder / video)
    page = Page(folder / "clip.html")
    assert page.data["source"] == url
    assert page.texts[[tag for tag, _ in page.tags].index("h1")].strip() == title


def test_render_page_peaks_are_scaled_to_the_loudest():
    page = render_page(VideoResult("v", None, [], 1.0, np.array([0, 0.1, 0.25, np.nan])), TASKS, "t", None, {})
    assert json.loads(re.search(r'id="data">(.*?)</script>', page)[1])["peaks"] == [0, 40, 100, 0]


@pytest.mark.parametrize(
    ("video_id", "name"),
    [
        ("/videos/My clip-1_a.b", "_videos_My clip-1_a.b"),
        ("Straße 日本 हिन्दी", "Straße 日本 हिन्दी"),
        ("..", "video"),
        ("", "video"),
        (".hidden", "hidden"),
        ("a\\..\\b:c*?", "a_.._b_c__"),
        ("<script>\n\0", "_script___"),
        ("...  ", "video"),
        ("half \udcff", "half _"),
        ("x" * 300 + "", "x" * MAX_NAME_BYTES),
        ("語" * 100 + "", "語" * (MAX_NAME_BYTES // 3)),
    ],
)
def test_safe_name_any_text_is_a_file_name(video_id, name):
    assert safe_name(video_id) == name
    assert safe_name(name) == name


def test_write_outputs_id_that_is_a_path_stays_in_the_folder(tmp_path):
    paths = write_outputs(tmp_path / "out", VideoResult("../../etc/x", None, [], 1.0), TASKS)
    assert {path.parent for path in paths} == {tmp_path / "out"}
    assert json.loads(paths[0].read_text())["results"] == {"../../etc/x": []}


def test_a_folder_that_cannot_be_write(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_outputs(tmp_path / "file" / "out", VideoResult("x", None, [], 1.0), TASKS)


def test_name_tasks_equal_types_include_the_key():
    assert name_tasks({"TASK1": "SED", "TASK2": "SED", "TASK3": "TAL"}) == {
        "TASK1": "SED (TASK1)",
        "TASK2": "SED (TASK2)",
        "TASK3": "TAL",
    }


def test_format_summary_has_a_row_for_each_video():
    results = [VideoResult("007", None, EVENTS, 3700.0), VideoResult("empty \x1b[31m", None, [], 9.6)]
    lines = [re.split(r"\s{2,}", line.strip()) for line in format_summary(results, TASKS).splitlines()]
    assert lines[0] == ["video", "duration", "TAL", "AVEL", "SED", "best event"]
    assert lines[2] == ["007", "61:40", "1", "0", "2", "high jump 1.0–2.5 s (0.88)"]
    assert lines[3] == ["empty [31m", "0:10", "0", "0", "0", "–"]
    assert format_summary([], TASKS).startswith("video")
