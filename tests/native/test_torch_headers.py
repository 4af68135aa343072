"""tools/torch_headers.py: headers by range requests, from a server without them, and from disk."""

import importlib.util
import io
import re
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location(
    "torch_headers", Path(__file__).parents[2] / "tools/torch_headers.py"
)
torch_headers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(torch_headers)

HEADERS = {
    "torch/csrc/stable/tensor.h": (
        '#include <ATen/Config.h>\n#  include "../inductor/near.h"\n#include <vector>\n'
    ),
    "torch/csrc/inductor/near.h": "#include <torch/far.h>\n",
    "torch/far.h": "",
    "ATen/Config.h": "",
    "ATen/unused.h": "",
    "pybind11/pybind11.h": "",
}
WANTED = set(HEADERS) - {"ATen/unused.h"}


@pytest.fixture
def wheel(tmp_path):
    """A 4 MB wheel in a package index; the one with the smaller build number has no headers."""
    folder = tmp_path / "simple/torch"
    folder.mkdir(parents=True)
    path = folder / "torch-9.1.0-2-cp311-cp311-manylinux_2_28_x86_64.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("torch/lib/libtorch.so", bytes(1 << 22))
        archive.writestr("torch/include/pybind11/", "")
        for name, text in HEADERS.items():
            archive.writestr(f"torch/include/{name}", text)
    links = "".join(
        f'<a href="{name}#sha256=0">torch</a>\n'
        for name in (path.name.replace("-2-", "-"), path.name)
    )
    (folder / "index.html").write_text(links)
    return path


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Ranges(Quiet):
    sent = 0

    def do_GET(self):
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not wanted:
            return super().do_GET()
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = int(wanted[1]), int(wanted[2])
        assert last < len(data)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        self.wfile.write(data[first : last + 1])
        type(self).sent += last - first + 1


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A function that serves `tmp_path` with a handler as pip's only index."""
    servers = []

    def start(handler):
        server = ThreadingHTTPServer(
            ("127.0.0.1", 0), lambda *a: handler(*a, directory=str(tmp_path))
        )
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        settings = {"index-url": f"http://127.0.0.1:{server.server_port}/simple"}
        monkeypatch.setattr(torch_headers, "pip_settings", lambda: settings)

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(torch_headers.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch_headers.sys, "platform", "linux")
    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def written(out):
    return {
        p.relative_to(out / "torch/include").as_posix()
        for p in (out / "torch/include").rglob("*")
        if p.is_file()
    }


def test_headers_are_downloaded_once_by_range_requests(
    wheel, served, tmp_path, monkeypatch, capsys
):
    served(Ranges)
    monkeypatch.setattr(Ranges, "sent", 0)
    monkeypatch.setattr(torch_headers, "REQUEST_BYTES", 1 << 14)
    torch_headers.main("9.1.0", tmp_path / "out")
    assert written(tmp_path / "out") == WANTED
    assert wheel.name in capsys.readouterr().out
    assert 0 < Ranges.sent < wheel.stat().st_size / 10
    monkeypatch.setattr(torch_headers, "find_wheel", None)
    torch_headers.main("9.1.0", tmp_path / "out")
    assert "already present" in capsys.readouterr().out


def test_server_without_range_requests(wheel, served, tmp_path, capsys):
    served(Quiet)
    torch_headers.main("9.1.0", tmp_path / "out")
    assert written(tmp_path / "out") == WANTED
    assert "downloading all of" in capsys.readouterr().err


def test_wheel_on_disk_is_preferred_and_another_version_replaced(
    wheel, served, tmp_path, monkeypatch, capsys
):
    served(Quiet)
    folder = tmp_path / "wheels"
    folder.mkdir()
    wheel.rename(folder / "torch-9.2.0+cpu-cp310-cp310-linux_x86_64.whl")
    settings = {**torch_headers.pip_settings(), "find-links": str(folder)}
    monkeypatch.setattr(torch_headers, "pip_settings", lambda: settings)
    stale = tmp_path / "out/torch/include/stale.h"
    stale.parent.mkdir(parents=True)
    stale.touch()
    (tmp_path / "out/torch/headers_of_version.txt").write_text("9.1.0")
    torch_headers.main("9.2.0", tmp_path / "out")
    assert written(tmp_path / "out") == WANTED
    assert "file:///" in capsys.readouterr().out


def test_errors_name_their_cause(wheel, served, tmp_path):
    served(Quiet)
    with pytest.raises(SystemExit, match=r"no wheel of torch 9\.3\.0 for linux x86_64 in http"):
        torch_headers.main("9.3.0", tmp_path / "out")
    torch = tmp_path / "site-packages/torch"
    torch.mkdir(parents=True)
    with pytest.raises(SystemExit, match="was not written by this program"):
        torch_headers.main("9.1.0", tmp_path / "site-packages")
    assert torch.is_dir()


def test_range_file_reads_the_same_bytes_as_a_file_on_disk(wheel, served, tmp_path):
    served(Ranges)
    settings = torch_headers.pip_settings()
    with torch_headers.open_wheel(torch_headers.find_wheel("9.1.0", settings), settings) as file:
        assert isinstance(file.raw, torch_headers.RangeFile)
        data = wheel.read_bytes()
        for start, count in ((0, 10), (len(data) - 5, 100), (1 << 21, 70_000), (len(data), 1)):
            file.seek(start)
            assert file.read(count) == data[start : start + count]
        assert file.seek(-22, io.SEEK_END) == len(data) - 22
        assert file.read() == data[-22:]


def test_environment_overrides_pip_configuration(monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1/simple")
    monkeypatch.setenv("PIP_FIND_LINKS", "/a /b")
    settings = torch_headers.pip_settings()
    assert settings["index-url"] == "http://127.0.0.1/simple"
    assert settings["find-links"].split() == ["/a", "/b"]
