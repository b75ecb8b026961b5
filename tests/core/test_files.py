from pathlib import Path

import pytest

from mutoscope.core.errors import MutoscopeError
from mutoscope.core.files import replacing


def test_file_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "clip.mp4"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.suffix == ".mp4"
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def write_half(path: Path, error: BaseException) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_interrupted_block_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error())
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_is_one_line_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(MutoscopeError, match=r"cannot write .*a\.txt: No space left on device\. Free some space"):
        write_half(tmp_path / "a.txt", OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(MutoscopeError, match="cannot write"), replacing(tmp_path / "a" / "b.txt"):
        pass


def test_file_may_be_read_by_whom_any_new_file_may(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    with replacing(tmp_path / "guarded") as temporary:
        temporary.touch(mode=0o600)
        temporary.chmod(0o600)
    assert (tmp_path / "guarded").stat().st_mode == plain.stat().st_mode
