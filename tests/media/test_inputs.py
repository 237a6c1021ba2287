"""Which videos command-line arguments name."""

import pytest

from libs.media.inputs import find_videos


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.webm", "ç 音 [1].mp4", "notes.doc"):
        (tmp_path / "videos" / name).touch()
    return tmp_path


def find_names(*inputs: str) -> list[str]:
    return [video.name for video in find_videos(list(inputs))[0]]


def test_find_videos_takes_folders_files_and_globs(folder):
    assert find_names("videos") == ["a", "b", "ç 音 [1]"]
    assert find_names("videos/ç 音 [1].mp4") == ["ç 音 [1]"]
    assert find_names("videos/*.webm", "videos") == ["b", "a", "ç 音 [1]"]


@pytest.mark.parametrize("listed", ["list.txt", "@list.txt"])
def test_find_videos_takes_lists(folder, listed):
    (folder / "x.mp4").touch()
    (folder / "list.txt").write_text(f"videos/b.webm\n\n{folder}/*.mp4\n")
    assert find_names(listed) == ["b", "x"]


def test_find_videos_reports_what_is_missing(folder):
    (folder / "nothing").mkdir()
    assert find_videos(["nothing", "*.avi", "@none"])[1] == [
        "nothing: no video or sound files in this folder",
        "*.avi: no file matches this pattern",
        "none: not a readable list of videos (No such file or directory)",
    ]


def test_find_videos_two_of_one_name_reports_the_second(folder):
    (folder / "a.webm").touch()
    videos, problems = find_videos(["videos/a.mp4", "a.webm", "videos/a.mp4"])
    assert [str(video) for video in videos] == ["videos/a.mp4"]
    assert problems == ["a.webm: its features would be named a, like those of videos/a.mp4; rename one"]
