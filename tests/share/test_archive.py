"""Zips of bundles: the same bytes every time, unpacked as packed, and every trick refused with nothing left behind."""

import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peft_stilts.digest import sha256_file, sha256_folder
from peft_stilts.errors import CheckpointError, UsageError
from peft_stilts.model.bundle import MANIFEST, read_bundle
from peft_stilts.share import archive
from peft_stilts.share.archive import pack, unpack
from peft_stilts.share.pull import opened, pull, verify_base

HEADER = "adapters/1-squad/adapter_config.json"


@pytest.fixture
def zipped(shared_bundle, tmp_path):
    return pack(shared_bundle.folder, tmp_path / "bundle.zip")


def rezipped(zipped, out, change=lambda entry, data: (entry, data), extra=()):
    """A zip of the same entries after `change` (None: left out), and `extra` (entry, data) at the end."""
    with zipfile.ZipFile(zipped) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            if (found := change(entry, old.read(entry))) is not None:
                new.writestr(*found)
        for entry, data in extra:
            new.writestr(entry, data)
    return out


def entry(name, mode=stat.S_IFREG | 0o644):
    made = zipfile.ZipInfo(name)
    made.create_system, made.external_attr = 3, mode << 16
    return made


def refused(file, tmp_path, words):
    """`unpack` and `pull` refuse the file, and leave nothing in or beside the target."""
    place = tmp_path / "place"
    place.mkdir(exist_ok=True)
    before = sorted(path for path in tmp_path.rglob("*"))
    for work in (lambda: unpack(file, place / "target"), lambda: pull(str(file), place / "target")):
        with pytest.raises(CheckpointError, match=words):
            work()
        assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_zip_is_the_folder_and_has_the_same_bytes_every_time(shared_bundle, zipped, tmp_path):
    assert sha256_file(pack(shared_bundle.folder, tmp_path / "again.zip")) == sha256_file(zipped)
    bundle = pull(str(zipped), tmp_path / "here")
    assert sha256_folder(bundle.folder) == sha256_folder(shared_bundle.folder)
    assert bundle.adapters == shared_bundle.adapters and bundle.folder == tmp_path / "here"
    with pytest.raises(UsageError, match="is there already"):
        pack(shared_bundle.folder, zipped)
    for work in (lambda: pull(str(zipped), tmp_path / "here"), lambda: unpack(zipped, tmp_path / "here")):
        with pytest.raises(UsageError, match="is there already"):
            work()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.zip", "bundle.zip", "here"]


def test_pull_of_a_folder_a_zip_without_out_and_nothing(shared_bundle, zipped, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert pull("bundle.zip").folder == Path("bundle")
    with pytest.raises(UsageError, match="folder already; name a new one with --out"):
        pull("bundle")
    assert read_bundle(pull("bundle", tmp_path / "copy").folder).adapters == shared_bundle.adapters
    with pytest.raises(UsageError, match="no zip, no folder and no hub id"):
        pull("no such thing")
    with opened("bundle.zip") as bundle:
        assert bundle.adapters == shared_bundle.adapters
    assert not bundle.folder.exists()
    with pytest.raises(CheckpointError, match="this bundle is for .*; the encoder here is"):
        verify_base(shared_bundle, "mini")


@pytest.mark.parametrize(("name", "words"), [
    ("../evil.md", r"evil.md is refused"), ("/etc/evil.md", "evil.md is refused"), ("a\\..\\evil.md", "is refused"),
    ("C:/evil.md", "is refused"), ("adapters/../../evil.md", "is refused"), ("code.py", "is refused"),
    ("pytorch_model.bin", "is refused"), ("x\n.md", "is refused"), ("README.md/", "is refused"),
    ("readme.md", "case|differ|twice"), ("adapters/1-squad/adapter_model.pt", "is refused")])
def test_names_that_lead_elsewhere_or_do_not_belong(zipped, tmp_path, name, words):
    refused(rezipped(zipped, tmp_path / "evil.zip", extra=[(entry(name), b"evil"), (entry("README.md"), b"")][
        : 2 if name == "readme.md" else 1]), tmp_path, words)


def test_links_devices_duplicates_and_encryption(zipped, tmp_path):
    for number, mode in enumerate((stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR)):
        file = rezipped(zipped, tmp_path / f"{number}.zip", extra=[(entry("link.md", mode | 0o777), b"/etc/passwd")])
        refused(file, tmp_path, "link.md is refused: it is (a link|no ordinary file)")
    with pytest.warns(UserWarning, match="Duplicate"):
        file = rezipped(zipped, tmp_path / "twice.zip", extra=[(entry(MANIFEST), b"{}")])
    refused(file, tmp_path, "stack.json is refused: it stands twice")
    data = bytearray(zipped.read_bytes())
    at = data.rindex(b"PK\1\2")
    struct.pack_into("<H", data, at + 8, struct.unpack_from("<H", data, at + 8)[0] | 1)
    (tmp_path / "secret.zip").write_bytes(bytes(data))
    refused(tmp_path / "secret.zip", tmp_path, "encrypted")


def test_zips_of_other_programs_are_read_and_other_kinds_of_zip_are_refused(shared_bundle, zipped, tmp_path):
    def packed(how, folders=()):
        file = tmp_path / f"{how}.zip"
        with zipfile.ZipFile(file, "w", how) as new:
            for name in folders:
                new.writestr(entry(name, stat.S_IFDIR | 0o755), b"")
            for path in sorted(path for path in shared_bundle.folder.rglob("*") if path.is_file()):
                new.write(path, path.relative_to(shared_bundle.folder))
        return file

    usual = packed(zipfile.ZIP_DEFLATED, ("adapters/", "adapters/1-squad/", "heads/"))
    assert sha256_folder(pull(str(usual), tmp_path / "usual").folder) == sha256_folder(shared_bundle.folder)
    refused(packed(zipfile.ZIP_BZIP2), tmp_path, "is refused: it is compressed in a way")
    whole = zipped.read_bytes()
    for name, content, words in (
        ("comment", whole[:-2] + b"\3\0hey", "is no zip file, was cut off, or has a comment"),
        ("empty", b"", "is no zip file"), ("text", b"x" * 100, "is no zip file"),
        ("zip64", whole[:-22] + b"PK\6\7" + bytes(16) + whole[-22:], "is a zip64"),
        ("many", whole[:-12] + struct.pack("<H", 2000) + whole[-10:], "has 2000 entries in a directory"),
        ("long", whole[:-10] + struct.pack("<I", 2**30) + whole[-6:], f"in a directory of {2**30} bytes"),
    ):
        (tmp_path / f"{name}.zip").write_bytes(content)
        refused(tmp_path / f"{name}.zip", tmp_path, words)
    # Names that end at a NUL for some readers and not for others.
    hidden = whole.replace(b"stack.json", b"stack\0json")
    (tmp_path / "nul.zip").write_bytes(hidden)
    refused(tmp_path / "nul.zip", tmp_path, "is refused: its name has control characters|has control")
    with pytest.raises(UsageError, match="is no file; name the zip"):
        unpack(tmp_path / "nothing.zip", tmp_path / "target")


def test_bombs(zipped, tmp_path, monkeypatch):
    def lying(at, size):
        data = bytearray(zipped.read_bytes())
        struct.pack_into("<I", data, data.rindex(b"PK\1\2") + at, size)
        file = tmp_path / f"lying-{at}-{size}.zip"
        file.write_bytes(bytes(data))
        return file

    refused(lying(24, 2**31), tmp_path, "is refused|at most")          # the size unpacked
    refused(lying(24, 1), tmp_path, "damaged")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr(MANIFEST, b"{}")
        bomb.writestr("heads/squad/head.safetensors", bytes(30_000_000))
    refused(tmp_path / "bomb.zip", tmp_path, "says that it holds 30000002 bytes; of a zip of .* at most")
    monkeypatch.setattr(archive, "MOST_FILES", 3)
    refused(zipped, tmp_path, "entries")


def test_a_bundle_that_the_zip_brings_is_checked_before_it_is_seen(zipped, tmp_path):
    def change(entry, data):
        return (entry, data.replace(b'"r"', b'"q"')) if entry.filename == HEADER else (entry, data)

    file = rezipped(zipped, tmp_path / "changed.zip", change)
    with pytest.raises(CheckpointError, match="adapter_config.json is damaged: its sha256 is"):
        pull(str(file), tmp_path / "target")
    file = rezipped(zipped, tmp_path / "less.zip", lambda e, data: None if e.filename == MANIFEST else (e, data))
    refused(file, tmp_path, "has no stack.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle.zip", "changed.zip", "less.zip", "place"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_zip_is_refused_or_is_the_same_bundle(shared_bundle, zipped, tmp_path_factory, data):
    place = tmp_path_factory.mktemp("damaged")
    content = bytearray(zipped.read_bytes())
    if data.draw(st.booleans()):
        content = content[:data.draw(st.integers(0, len(content) - 1))]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    (place / "b.zip").write_bytes(bytes(content))
    try:
        bundle = pull(str(place / "b.zip"), place / "out")
    except CheckpointError as error:
        assert "b.zip" in str(error) or str(place / "out") in str(error)
        assert sorted(path.name for path in place.iterdir()) == ["b.zip"]
    else:
        assert bundle.adapters == shared_bundle.adapters and bundle.base == shared_bundle.base
