from tests.conftest import assert_user_error


def test_make_demo_data_overwrites_only_its_own_files(tiny, run_script):
    (tiny / "avel/av_features/made_by_make_demo_data").unlink()
    status, _, err = run_script("tools/make_demo_data.py", tiny / "tiny.yaml")
    assert_user_error(status, err, "avel/av_features: exists and was not made by this tool")
    (tiny / "tal/av_features").rename(tiny / "tal/elsewhere")
    before = (tiny / "tal/annotations/tiny.json").read_text()
    status, _, err = run_script("tools/make_demo_data.py", tiny / "tiny.yaml")
    assert_user_error(status, err, "tal/annotations/tiny.json: exists and was not made by this tool")
    assert (tiny / "tal/annotations/tiny.json").read_text() == before
    arguments = (tiny / "tiny.yaml", "-o", "TASK1.dataset.feat_folder=planted")
    assert_user_error(*run_script("tools/make_demo_data.py", *arguments)[::2], "a folder to write .npy files to")
