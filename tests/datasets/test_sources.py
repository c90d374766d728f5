import errno
import io
import random
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pyg_schnet.datasets import sources
from pyg_schnet.datasets.sources import checksum, download, open_archive_members, verify

CONTENT = bytes(range(256)) * 4000  # 1 MB: several chunks


class Server:
    """Answers with CONTENT as told: ``cut`` bytes at most, with or without Range."""

    def __init__(self):
        self.cut = len(CONTENT)
        self.ranges = True
        self.asked = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                outer.asked.append(wanted)
                start = int(wanted[6:-1]) if wanted and outer.ranges else 0
                if start >= len(CONTENT):
                    self.send_error(416)
                    return
                self.send_response(206 if wanted and outer.ranges else 200)
                if wanted and outer.ranges:
                    end = len(CONTENT) - 1
                    self.send_header("Content-Range", f"bytes {start}-{end}/{len(CONTENT)}")
                self.send_header("Content-Length", str(len(CONTENT) - start))
                self.end_headers()
                self.wfile.write(CONTENT[start : outer.cut])

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/file"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture
def right(tmp_path):
    original = tmp_path / "original"
    original.write_bytes(CONTENT)
    return checksum(original)


def test_checksum_is_the_one_of_the_standards_documents(tmp_path):
    # RFC 1321 (MD5) and FIPS 180 (SHA-256) give these for "abc".
    (tmp_path / "abc").write_bytes(b"abc")
    assert checksum(tmp_path / "abc", "md5") == "md5:900150983cd24fb0d6963f7d28e17f72"
    assert checksum(tmp_path / "abc") == (
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    verify(tmp_path / "abc", "md5:900150983CD24FB0D6963F7D28E17F72")
    with pytest.raises(ValueError, match="is expected"):
        verify(tmp_path / "abc", "md5:900150983cd24fb0d6963f7d28e17f73")
    with pytest.raises(ValueError, match="must be 'sha256:...'"):
        verify(tmp_path / "abc", "900150983cd24fb0d6963f7d28e17f72")


def test_a_file_is_downloaded_once_and_left_alone_afterwards(server, tmp_path, right):
    path = tmp_path / "new" / "file"
    assert download(server.url, path, right) == path
    assert path.read_bytes() == CONTENT
    download(server.url, path, right)
    assert server.asked == [None]
    assert list(path.parent.iterdir()) == [path]


def test_a_transfer_that_broke_off_goes_on_where_it_stopped(server, tmp_path, right):
    path = tmp_path / "file"
    server.cut = 300_000
    with pytest.raises(ConnectionError, match="could not be downloaded"):
        download(server.url, path, right)
    assert not path.exists()
    assert (tmp_path / "file.part").stat().st_size == 300_000
    server.cut = len(CONTENT)
    download(server.url, path, right)
    assert server.asked == [None, "bytes=300000-"]
    assert path.read_bytes() == CONTENT


def test_a_server_that_cannot_resume_sends_everything_again(server, tmp_path, right):
    (tmp_path / "file.part").write_bytes(CONTENT[:1000])
    server.ranges = False
    download(server.url, tmp_path / "file", right)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_part_that_is_complete_is_taken_as_it_is(server, tmp_path, right):
    (tmp_path / "file.part").write_bytes(CONTENT)
    download(server.url, tmp_path / "file", right)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_wrong_content_is_deleted_and_the_next_call_starts_afresh(server, tmp_path, right):
    (tmp_path / "file.part").write_bytes(b"of another file")
    with pytest.raises(ValueError, match="is expected"):
        download(server.url, tmp_path / "file", right)
    assert [entry.name for entry in tmp_path.iterdir()] == ["original"]
    download(server.url, tmp_path / "file", right)
    assert server.asked[-1] is None


def test_a_damaged_file_at_the_place_is_replaced(server, tmp_path, right):
    (tmp_path / "file").write_bytes(b"damaged")
    download(server.url, tmp_path / "file", right)
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_without_a_server_the_message_is_one_clear_sentence(server, tmp_path, right):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(ConnectionError, match=r"could not be downloaded \(.*\): try again online"):
        download(server.url, tmp_path / "file", right)
    assert not (tmp_path / "file").exists()


def test_a_full_disk_while_downloading_is_told(server, tmp_path, right, monkeypatch):
    class Full:
        def __init__(self, **arguments):
            pass

        def __enter__(self):
            raise OSError(errno.ENOSPC, "No space left on device")

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(sources, "tqdm", Full)
    with pytest.raises(OSError, match="no room for the download"):
        download(server.url, tmp_path / "file", right)
    assert not (tmp_path / "file").exists()


def pack(path, members, mode):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        archive.addfile(tarfile.TarInfo("folder.xyz"))


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
def test_members_are_read_in_order_whatever_the_compression(tmp_path, compression):
    path = tmp_path / "archive"
    pack(path, {"b.xyz": b"2", "notes.txt": b"no", "a.xyz": b"1"}, f"w:{compression}")
    members = [entry for entry in open_archive_members(path, ".xyz") if entry[1]]
    assert members == [("b.xyz", b"2"), ("a.xyz", b"1")]
    assert [entry.name for entry in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.7])
def test_an_archive_that_is_cut_off_is_told(tmp_path, compression, share):
    path = tmp_path / "archive"
    noise = random.Random(0).randbytes(60_000)
    pack(path, {"a.xyz": noise[:30_000], "b.xyz": noise[30_000:]}, f"w:{compression}")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match="cut off or damaged"):
        list(open_archive_members(path))


def test_an_archive_with_a_damaged_byte_is_told(tmp_path):
    path = tmp_path / "archive"
    pack(path, {"a.xyz": b"0123456789" * 1000}, "w:bz2")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ValueError, match="cut off or damaged"):
        list(open_archive_members(path))


def test_what_is_no_archive_is_told(tmp_path):
    (tmp_path / "text").write_text("this is no archive\n" * 100)
    with pytest.raises(ValueError, match="cut off or damaged at its start"):
        list(open_archive_members(tmp_path / "text"))
    with pytest.raises(FileNotFoundError, match="no such archive"):
        list(open_archive_members(tmp_path / "absent"))
