"""Event tables: what rows may say together about a video, and the checks of times and classes."""

from pathlib import Path

import pytest

from libs.core.errors import DataError
from libs.datasets.importing import event_tables
from libs.datasets.importing.event_tables import EventTables
from libs.datasets.importing.readers import read_events

TABLE = "video,start,end,label\na,0.5,2.0,dog\na,1.0,3.25,cat\nb,0.0,4.0,dog\nc,2.5,3.0,cat\n"


def gather(folder: Path, text: str, duration: float | None = 8) -> EventTables:
    path = folder / "e.csv"
    path.write_text(text)
    tables = event_tables.gather_videos(read_events(path).rows)
    return tables._replace(videos=tables.videos.fillna({"duration": duration})) if duration else tables


def with_subsets(text: str, *subsets: str) -> str:
    header, *rows = text.splitlines()
    return "\n".join([f"{header},subset", *(f"{row},{subset}" for row, subset in zip(rows, subsets, strict=True))])


def test_gather_videos_names_of_one_file_are_one_video(tmp_path):
    tables = gather(tmp_path, TABLE.replace("\na,1", "\na.mp4,1").replace("\nc,", "\ntake_2.5,"))
    assert tables.videos.index.tolist() == ["a", "b", "take_2.5"]
    videos = event_tables.build_videos(tables, ["cat", "dog"])
    assert [video.labels.tolist() for video in videos] == [[1, 0], [1], [0]]
    assert videos[0].segments.tolist() == [[0.5, 2.0], [1.0, 3.25]]


BAD_ROWS = {
    "negative": (TABLE.replace("0.5", "-0.5"), "e.csv, row 2: starts at -0.5 s"),
    "backwards": (TABLE.replace("3.25", "0.25"), "e.csv, row 3: ends at 0.25 s, before it starts at 1 s"),
    "beyond": (TABLE.replace("4.0", "40"), "e.csv, row 4: 0 to 40 s, but video b lasts 8 s"),
    "begins beyond": (TABLE.replace("0.0,4.0", "8.2,8.4"), "e.csv, row 4: 8.2 to 8.4 s, but video b lasts 8 s"),
    "two folders": (TABLE.replace("\na,1", "\nx/a,1"), "e.csv, row 3: folder of video a is x, before it was ."),
    "two files": (
        TABLE.replace("\na,0", "\na.mp4,0").replace("\na,1", "\na.wav,1"),
        "e.csv, row 3: ending of video a is .wav, before it was .mp4",
    ),
    "no duration": ("video,start,end,label,duration\na,1,2,dog,0\n", "e.csv, row 2: video a lasts 0 s, expected more"),
    "two subsets": (
        with_subsets(TABLE, "train", "test", "train", "test"),
        "e.csv, row 3: subset of video a is test, before it was train",
    ),
}


@pytest.mark.parametrize("name", BAD_ROWS)
def test_checks_bad_rows_name_the_row(tmp_path, name):
    text, message = BAD_ROWS[name]
    with pytest.raises(DataError) as error:
        event_tables.check_durations(gather(tmp_path, text))
    assert message in str(error.value)


def test_check_durations_unknown_says_how_to_give_it(tmp_path):
    with pytest.raises(DataError, match="row 2: the duration of video a is not known; give --videos DIR"):
        event_tables.check_durations(gather(tmp_path, TABLE, duration=None))


def test_order_classes_fixed_list_knows_all_labels(tmp_path):
    events = gather(tmp_path, TABLE).events
    assert event_tables.order_classes(events, ["dog"], None) == ["dog", "cat"]
    assert event_tables.order_classes(events, ["cat"], ["dog", "fox", "cat"]) == ["dog", "fox", "cat"]
    with pytest.raises(DataError, match="row 3: label 'cat' is not in --labels; did you mean 'cats'"):
        event_tables.order_classes(events, [], ["dog", "cats"])


def test_load_class_list_repeated_name_is_an_error(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("dog\n\n cat\n")
    assert event_tables.load_class_list(path) == ["dog", "cat"]
    path.write_text("dog\ncat\ndog\n")
    with pytest.raises(DataError, match="'dog' is there twice"):
        event_tables.load_class_list(path)


def test_warnings_likely_mistakes_are_counted(tmp_path):
    tables = gather(tmp_path, TABLE + "a,0.5,2.0,dog\nb,3,3,dog\nc,7,8.5,Dog\n")
    event_tables.check_durations(tables)
    notes = "\n".join(event_tables.collect_warnings(tables, ["Dog", "cat", "dog"]))
    path = tmp_path / "e.csv"
    for part in (
        f"events given twice, which count once: 1, such as {path}, row 6;",
        f"events that last 0 s, which no network can find: 1, such as {path}, row 7;",
        f"events that end after their video, by up to 0.500 s: 1, such as {path}, row 8;",
        "classes that differ only in upper and lower case: 2, such as Dog;",
    ):
        assert part in notes


def test_match_files_sets_durations_and_adds_clips_without_events(tmp_path):
    tables = gather(tmp_path, TABLE, duration=None)
    durations = {"a": 5.0, "b": 6.0, "c": 7.0, "d": 8.0}
    matched, notes = event_tables.match_files(tables, durations, "clips", skip_missing=False)
    assert matched.videos.duration.to_dict() == durations
    assert len(event_tables.build_videos(matched, ["cat", "dog"])[3].labels) == 0
    event_tables.check_durations(matched)
    assert notes == ["no row names these files of clips; they count as clips without events: d"]


def test_match_files_video_without_file_is_an_error_or_left_out(tmp_path):
    tables = gather(tmp_path, TABLE.replace("b,", "v00,").replace("c,", "{x}.wav,"), duration=None)
    durations = {"a": 5.0, "v0": 6.0}
    with pytest.raises(DataError, match="row 4: no file in clips of video v00, {x}; did you mean v0?"):
        event_tables.match_files(tables, durations, "clips", skip_missing=False)
    matched, notes = event_tables.match_files(tables, durations, "clips", skip_missing=True)
    assert matched.videos.index.tolist() == ["a", "v0"]
    assert set(matched.events.video_id) == {"a"}
    assert "left out, because clips has no file of them: v00, {x}" in notes
