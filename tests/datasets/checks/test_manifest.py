"""Manifests are written, read and compared."""

import shutil
import subprocess

import pytest

from libs.core.errors import DataError
from libs.datasets.checks.feature_files import hash_file
from libs.datasets.checks.manifest import check_manifest, read_manifest, write_manifest


def test_manifest_is_read_as_it_was_written(tmp_path):
    files = {"a b.npy": "0" * 64, "back\\slash\n": "1" * 64, "ü\udcff.npy": "2" * 64}
    write_manifest(tmp_path / "m", files)
    assert read_manifest(tmp_path / "m") == files


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_manifest_is_accepted_by_sha256sum(tmp_path):
    path = tmp_path / "a \\b\nc"
    path.write_text("text")
    write_manifest(tmp_path / "m", {str(path): hash_file(path)})
    assert subprocess.run(["sha256sum", "-c", "--quiet", tmp_path / "m"]).returncode == 0


def test_read_manifest_other_text_names_the_line(tmp_path):
    (tmp_path / "m").write_text("nonsense")
    with pytest.raises(DataError, match="m, line 1: expected a SHA-256"):
        read_manifest(tmp_path / "m")


def test_check_manifest_finds_changed_lost_and_new_files(tmp_path):
    elsewhere = tmp_path / "of another task"
    elsewhere.touch()
    manifest = {"same": "0", "changed": "1", "lost": "2", str(elsewhere): "3"}
    found = check_manifest(manifest, {"same": "0", "changed": "9", "new": "4"})
    assert [(o.check, o.name) for o in found] == [
        ("changed file", "changed"),
        ("lost file", "lost"),
        ("new file", "new"),
    ]
