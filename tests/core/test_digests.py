import hashlib
from pathlib import Path

import pytest

from mutoscope.core import digests
from mutoscope.core.digests import sha256_of


def test_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"abc")
    assert sha256_of(tmp_path / "w") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_large_file_is_read_again_only_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUTOSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 10)
    path, read = tmp_path / "w", []
    monkeypatch.setattr(
        digests, "_read", lambda path: read.append(path) or hashlib.sha256(path.read_bytes()).hexdigest()
    )
    for content in (b"a" * 20, b"b" * 21):
        path.write_bytes(content)
        assert sha256_of(path) == sha256_of(path) == hashlib.sha256(content).hexdigest()
    assert len(read) == 2
