import numpy as np
import pytest

from libs.core.errors import DataError, UserError
from libs.core.files import make_folder, read_json, read_npy, replacing


def test_replacing_failed_block_keeps_old_file(tmp_path):
    path = tmp_path / "folder/file.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_make_folder_inside_a_file_raises(tmp_path):
    make_folder(tmp_path / "a/b")
    assert list((tmp_path / "a/b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/b.*: cannot be written"):
        make_folder(tmp_path / "file/b")


def test_read_json_and_npy_errors_name_file_and_content(tmp_path):
    path = tmp_path / "x"
    for read in (read_json, read_npy):
        with pytest.raises(DataError, match=f"{path}: .*, expected a table"):
            read(path, "a table")
    path.write_text("{")
    with pytest.raises(DataError, match="x: not valid JSON"):
        read_json(path, "a table")
    np.save(tmp_path / "text.npy", np.array(["a"]))
    with pytest.raises(DataError, match="expected numbers"):
        read_npy(tmp_path / "text.npy", "a table")
