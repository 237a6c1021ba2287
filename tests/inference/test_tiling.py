"""Pieces of long videos."""

import itertools

import pytest

from libs.inference.tiling import split_into_pieces


@pytest.mark.parametrize("num_windows", [1, 160, 161, 200, 999, 14_400])
def test_split_into_pieces_any_length_cores_tile_the_video(num_windows):
    pieces = split_into_pieces(num_windows, max_seq_len=10)
    assert (len(pieces) == 1) == (num_windows <= 160)
    assert (pieces[0].start, pieces[-1].stop) == (0, num_windows)
    assert all(a.core_stop == b.core_start for a, b in itertools.pairwise(pieces))
    for piece in pieces:
        assert piece.stop - piece.start == min(num_windows, 160)
        assert piece.core_start % 10 == 0 or piece.start == 0


@pytest.mark.parametrize("num_windows", [161, 200, 999, 14_400])
def test_split_into_pieces_long_video_core_has_a_margin_of_two_clips(num_windows):
    for piece in split_into_pieces(num_windows, max_seq_len=10):
        assert piece.start == 0 or piece.start <= piece.core_start - 20
        assert piece.stop == num_windows or piece.stop >= piece.core_stop + 20
