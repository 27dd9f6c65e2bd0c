"""Files with a secret: whole or not at all, and nothing left behind."""

import errno
import os
from pathlib import Path

import pytest

from peers.errors import FileUnusable
from peers.private_file import write_private


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_full_disk_leaves_nothing_behind(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(FileUnusable, match="No space left on device"):
        write_private(tmp_path / "secret", b"content", overwrite=overwrite)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [".", "..", "there", "/"])
def test_a_folder_is_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(FileUnusable, match="it is a folder"):
        write_private(Path(name), b"content", overwrite=True)
    assert [each.name for each in tmp_path.iterdir()] == ["there"]
