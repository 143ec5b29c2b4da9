"""Archives are unpacked whole, safely, and on from where a run stopped."""

import io
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from types import SimpleNamespace

import pytest

from wesp_lap.corpora import archives
from wesp_lap.corpora.archives import unpack
from wesp_lap.corpora.parts import Archive, JoinedFile, check_last_part, find_archives
from wesp_lap.errors import DataError

FILES = {
    "wav/id1/v/00001.wav": b"first" * 400,
    "wav/id1/v/00002.wav": random.Random(1).randbytes(3000),
    "wav/id2/v/00001.wav": random.Random(2).randbytes(2000),
}


def make_zip(path, files=FILES):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        for name, content in files.items():
            package.writestr(name, content)
    return path


def make_tar(path, files=FILES, mode="w:gz"):
    with tarfile.open(path, mode) as package:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    return path


def split(path, size, prefix=None):
    """Cut a file as split -b does; remove it and return the parts."""
    content = path.read_bytes()
    prefix = prefix or f"{path}"
    parts = []
    for number, at in enumerate(range(0, len(content), size)):
        part = path.parent / f"{prefix}a{chr(97 + number)}"
        part.write_bytes(content[at : at + size])
        parts.append(part)
    path.unlink()
    return parts


def only(place):
    (archive,) = find_archives(place)
    return archive


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.mark.parametrize("name", ["c.zip", "c.tar.gz", "c.tgz", "c.tar", "split.zip", "split.tgz"])
def test_an_archive_gives_its_files(tmp_path, name):
    path = tmp_path / name
    if name.endswith("zip"):
        make_zip(path)
    else:
        make_tar(path, mode="w" if name.endswith("tar") else "w:gz")
    if name == "split.zip":
        parts = split(path, 1000, "corpus_part")
        assert [part.name for part in parts[:2]] == ["corpus_partaa", "corpus_partab"]
    if name == "split.tgz":
        split(path, 700)
    assert contents(unpack(only(tmp_path), tmp_path / "out")) == FILES


def test_parts_read_as_one_file_at_any_position(tmp_path):
    content = random.Random(3).randbytes(1000)
    names = []
    for number, (start, end) in enumerate([(0, 1), (1, 400), (400, 400), (400, 1000)]):
        names.append(tmp_path / str(number))
        names[-1].write_bytes(content[start:end])
    truth, joined = io.BytesIO(content), io.BufferedReader(JoinedFile(names), 64)
    rng = random.Random(4)
    for _ in range(300):
        whence = rng.choice([os.SEEK_SET, os.SEEK_END])
        offset = rng.randrange(1100) - (1000 if whence == os.SEEK_END else 0)
        assert truth.seek(max(offset, -1000), whence) == joined.seek(max(offset, -1000), whence)
        count = rng.choice([0, 1, 63, 500, -1])
        assert truth.read(count) == joined.read(count)
    joined.close()


def test_any_part_or_the_folder_names_the_whole_archive(tmp_path):
    parts = split(make_zip(tmp_path / "x.zip"), 1000, "vox1_dev_wav_part")
    for place in (tmp_path, parts[0], parts[2]):
        assert only(place) == Archive("vox1_dev_wav", tuple(parts))
    whole = make_zip(tmp_path / "vox1_dev_wav.zip")
    assert only(tmp_path) == Archive("vox1_dev_wav", (whole,))


def test_missing_cut_and_empty_parts_are_named_together(tmp_path):
    parts = split(make_zip(tmp_path / "x.zip"), 700, "vox1_dev_wav_part")
    assert len(parts) >= 6
    parts[1].unlink()
    parts[2].write_bytes(parts[2].read_bytes()[:-3])
    parts[3].write_bytes(b"")
    with pytest.raises(DataError) as caught:
        find_archives(tmp_path)
    for text in ("partab: missing", "partac: 697 bytes, other parts have 700", "partad: empty"):
        assert text in str(caught.value)


def test_broken_archives_that_nobody_asked_for_do_no_harm(tmp_path):
    wanted = make_zip(tmp_path / "vox1_test_wav.zip")
    (tmp_path / "vox2_dev_mp4_partab").write_bytes(b"x")
    assert find_archives(tmp_path, ["vox1_test_wav"]) == [Archive("vox1_test_wav", (wanted,))]
    with pytest.raises(DataError, match="mp4_partaa: missing"):
        find_archives(tmp_path)


def test_a_last_part_that_is_missing_or_cut_is_found(tmp_path):
    parts = split(make_zip(tmp_path / "x.zip"), 1000, "vox1_dev_wav_part")
    parts[-1].write_bytes(parts[-1].read_bytes()[:-30])
    with pytest.raises(DataError, match=rf"the end, in {parts[-1]}, is missing or damaged"):
        unpack(only(tmp_path), tmp_path / "out")
    parts[-1].unlink()
    archive = only(tmp_path)
    with pytest.raises(DataError, match="last part is 'ae', of the published archive 'af'"):
        check_last_part(archive, "af")
    check_last_part(archive, "ae")
    with pytest.raises(DataError, match=r"the end, in .*partae, is missing"):
        unpack(archive, tmp_path / "out")


def test_a_cut_tar_names_the_last_whole_file_and_keeps_it(tmp_path):
    files = {**FILES, "wav/id3/v/00001.wav": random.Random(5).randbytes(90000)}
    parts = split(make_tar(tmp_path / "cn-celeb2_v2.tar.gz", files), 30000)
    parts[-1].unlink()
    with pytest.raises(DataError, match=r"damaged or cut after wav/id2/v/00001\.wav"):
        unpack(only(tmp_path), tmp_path / "out")
    assert set(contents(tmp_path / "out")) == set(FILES)


def test_a_tar_whose_checksum_is_wrong_is_refused(tmp_path):
    path = make_tar(tmp_path / "c.tar.gz")
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 255  # of the CRC that ends a gzip
    path.write_bytes(raw)
    with pytest.raises(DataError, match="some of its files are damaged, and nothing says which"):
        unpack(only(path), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.json"))


def test_all_damaged_members_of_a_zip_are_named_and_the_others_unpacked(tmp_path):
    path = make_zip(tmp_path / "c.zip", {**FILES, "wav/id3/v/1.wav": b"good"})
    raw = bytearray(path.read_bytes())
    for name in ("wav/id1/v/00002.wav", "wav/id2/v/00001.wav"):
        raw[raw.find(FILES[name][:50]) + 20] ^= 255
    path.write_bytes(raw)
    with pytest.raises(DataError) as caught:
        unpack(only(path), tmp_path / "out")
    assert "2 problems" in str(caught.value)
    assert "wav/id1/v/00002.wav: " in str(caught.value) and "id2/v/00001.wav" in str(caught.value)
    assert set(contents(tmp_path / "out")) == {"wav/id1/v/00001.wav", "wav/id3/v/1.wav"}
    make_zip(path, {**FILES, "wav/id3/v/1.wav": b"good"})
    assert len(contents(unpack(only(path), tmp_path / "out"))) == 4


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_second_run_writes_only_what_is_not_whole(tmp_path, make):
    archive = only(make(tmp_path / ("c.zip" if make is make_zip else "c.tar.gz")))
    out = unpack(archive, tmp_path / "out")
    (out / ".c.unpacked.json").unlink()
    first, second, third = (out / name for name in sorted(FILES))
    kept = third.stat().st_ino
    first.unlink()
    second.write_bytes(b"half")
    unpack(archive, out)
    assert contents(out) == FILES and third.stat().st_ino == kept


def test_a_file_of_the_right_size_and_other_content_is_replaced(tmp_path):
    archive = only(make_zip(tmp_path / "c.zip"))
    out = unpack(archive, tmp_path / "out")
    (out / ".c.unpacked.json").unlink()
    name = "wav/id2/v/00001.wav"
    (out / name).write_bytes(bytes(len(FILES[name])))
    unpack(archive, out)
    assert contents(out) == FILES


def test_a_finished_archive_is_not_opened_again_until_it_changes(tmp_path, monkeypatch):
    archive = only(make_zip(tmp_path / "c.zip"))
    out = unpack(archive, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(Archive, "kind", lambda self: pytest.fail("opened"))
        assert unpack(archive, out) == out
    make_zip(tmp_path / "c.zip", {"more.wav": b"more"})
    assert "more.wav" in contents(unpack(archive, out))


def test_what_macos_adds_is_left_out(tmp_path):
    files = {"a/1.wav": b"1", "a/._1.wav": b"x", "__MACOSX/a/1.wav": b"x"}
    for number, make in enumerate((make_zip, make_tar)):
        out = tmp_path / str(number)
        unpack(only(make(tmp_path / ("c.zip", "d.tar.gz")[number], files)), out)
        assert set(contents(out)) == {"a/1.wav"}


@pytest.mark.parametrize("name", ["../evil.wav", "/tmp/evil.wav", "a/../../evil.wav", "..\\e.wav"])
def test_members_that_leave_the_folder_are_refused(tmp_path, name):
    for number, make in enumerate((make_zip, make_tar)):
        package = make(tmp_path / ("c.zip", "d.tar.gz")[number], {name: b"x", "b/1.wav": b"y"})
        with pytest.raises(DataError, match=r"(?s)1 problem.*leads out of the folder"):
            unpack(only(package), tmp_path / "deep" / "out")
    assert not list(tmp_path.rglob("e*.wav")) and not os.path.exists("/tmp/evil.wav")


def test_links_are_refused(tmp_path):
    with tarfile.open(tmp_path / "c.tar", "w") as package:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"odd{kind.decode()}")
            member.type, member.linkname = kind, "/etc/passwd"
            package.addfile(member)
    with pytest.raises(DataError, match=r"(?s)3 problems.*odd1: a link or a device"):
        unpack(only(tmp_path), tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "d.zip", "w") as package:
        member = zipfile.ZipInfo("odd")
        member.external_attr = 0o120777 << 16
        package.writestr(member, "/etc/passwd")
    with pytest.raises(DataError, match="odd: a link or a device"):
        unpack(only(tmp_path / "d.zip"), tmp_path / "out")


def test_a_page_saved_in_place_of_the_archive_is_recognised(tmp_path):
    (tmp_path / "c.zip").write_bytes(b"<!DOCTYPE html><title>401 Unauthorized</title>")
    with pytest.raises(DataError, match="neither a zip nor a tar archive; it begins with '<!DOC"):
        unpack(only(tmp_path), tmp_path / "out")


def test_an_empty_archive_is_a_fault(tmp_path):
    with pytest.raises(DataError, match="the archive is empty"):
        unpack(only(make_zip(tmp_path / "c.zip", {})), tmp_path / "out")


@pytest.mark.parametrize(
    ("blocks", "numbers", "text"),
    [
        (1, 9999, r"needs 0\.0 GB in .*, 0\.0 GB are free"),
        (10**9, 2, "needs 3 files .* room for 2"),
    ],
)
def test_a_full_disk_is_noticed_before_anything_is_written(
    tmp_path, monkeypatch, blocks, numbers, text
):
    status = SimpleNamespace(f_frsize=4096, f_bavail=blocks, f_favail=numbers)
    monkeypatch.setattr(archives.os, "statvfs", lambda _: status)
    with pytest.raises(DataError, match=text):
        unpack(only(make_zip(tmp_path / "c.zip")), tmp_path / "out")
    assert not contents(tmp_path / "out")


def test_a_file_in_the_place_of_a_folder_is_one_sentence(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "wav").write_text("a file")
    with pytest.raises(DataError, match="cannot be unpacked into"):
        unpack(only(make_zip(tmp_path / "c.zip")), tmp_path / "out")


def test_no_such_archive(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        find_archives(tmp_path / "c.zip")


DYING = """
import os, sys
from pathlib import Path
left, real = int(sys.argv[1]), os.replace
def replace(*names):
    global left
    left -= 1
    if left < 0:
        os._exit(9)
    real(*names)
os.replace = replace
from wesp_lap.corpora import archives, parts
archives._THREADS = 1
(archive,) = parts.find_archives(sys.argv[2])
archives.unpack(archive, Path(sys.argv[3]))
"""


@pytest.mark.parametrize("make", [make_zip, make_tar])
@pytest.mark.parametrize("steps", [0, 1, 3, 4])
def test_a_killed_run_goes_on_and_leaves_no_half_files(tmp_path, make, steps):
    path = make(tmp_path / ("c.zip" if make is make_zip else "c.tar.gz"))
    words = [sys.executable, "-c", DYING, str(steps), str(path), str(tmp_path / "out")]
    assert subprocess.run(words, check=False).returncode == 9
    left = contents(tmp_path / "out")
    assert len(left) == min(steps, 3) and left.items() <= FILES.items()
    assert contents(unpack(only(path), tmp_path / "out")) == FILES
    assert not list((tmp_path / "out").rglob(".*.wav.partial"))
