"""A folder of small clips, shared by the tests of this folder and of extract.py."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def clips(tmp_path_factory) -> Path:
    """A folder with a.mp4, b.webm, a file with sound only, and one that is no media file."""
    pytest.importorskip("av", reason="needs PyAV: pip install -e .[media]")
    from tests.media.clips import write_clip

    folder = tmp_path_factory.mktemp("clips")
    write_clip(folder / "a.mp4", 3)
    write_clip(folder / "b.webm", 2, beep=None)
    write_clip(folder / "ç 音 [1].mp4", 2.5, picture=False)
    (folder / "notes.doc").write_text("no video")
    return folder
