"""The C++ headers of a torch release without its wheel: `python tools/torch_headers.py 2.10.0 OUT`.

Writes to OUT/torch/include the headers that a build against torch's stable ABI can include, and
torch's own copy of pybind11, which such a build must not find first. A wheel is a zip archive: its
directory and the needed members are fetched with HTTP range requests, 4 to 5 of 500 to 900 MB. A
server without range requests sends the whole wheel; a wheel on disk is read directly. Wheels are
searched where pip's configuration says. OUT is a cache: a second call for the same version does
nothing.
"""

import ast
import io
import platform
import posixpath
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener, url2pathname

SEEDS = tuple("torch/csrc/inductor/aoti_torch/" + x for x in ("c/", "generated/"))
SEEDS += ("torch/csrc/stable/", "torch/headeronly/", "pybind11/")
REQUEST_BYTES = 1 << 20


def pip_settings() -> dict[str, str]:
    """pip's options by name; environment variables override configuration files."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    pairs = sorted(
        (line.partition("=") for line in done.stdout.splitlines()),
        key=lambda x: x[0].startswith(":env:"),
    )
    return {key.rpartition(".")[2]: ast.literal_eval(value) for key, _, value in pairs}


def open_url(url: str, settings: dict[str, str], **headers: str):
    """Open a URL with the proxy, certificates and timeout of pip's configuration."""
    handlers = [HTTPSHandler(context=ssl.create_default_context(cafile=settings.get("cert")))]
    if "proxy" in settings:
        handlers.append(ProxyHandler(dict.fromkeys(("http", "https"), settings["proxy"])))
    timeout = float(settings.get("default-timeout", 60))
    return build_opener(*handlers).open(Request(url, headers=headers), timeout=timeout)


def default_index() -> str:
    """URL of the index that pip uses if none is configured."""
    command = [sys.executable, "-c"]
    command += ["from pip._internal.models.index import PyPI; print(PyPI.simple_url)"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def list_wheels(place: str, settings: dict[str, str]) -> list[str]:
    """URLs of the wheels on a page, or of those of torch in a folder without index.html."""
    folder = Path(url2pathname(urlsplit(place).path))
    if not place.startswith("http") and not (folder / "index.html").is_file():
        return [path.resolve().as_uri() for path in folder.glob("torch-*.whl")]
    page = place if place.startswith("http") else (folder / "index.html").as_uri()
    accepted = "application/vnd.pypi.simple.v1+html, text/html;q=0.1"
    with open_url(page, settings, Accept=accepted) as answer:
        links = re.findall(r'href="([^"#]+\.whl)', answer.read().decode())
        return [urljoin(answer.url, link) for link in links]


def find_wheel(version: str, settings: dict[str, str]) -> str:
    """The URL of the best wheel for this platform.

    Wheels on disk come first, then those for this Python, then the highest build number.
    """
    index = settings.get("index-url") or default_index()
    indexes = [index, *settings.get("extra-index-url", "").split()]
    places = settings.get("find-links", "").split()
    places += [f"{url.rstrip('/')}/torch/" for url in indexes]
    urls = [url for place in places for url in list_wheels(place, settings)]
    system, machine = "macosx" if sys.platform == "darwin" else "linux", platform.machine()
    tags = rf"(?:(\d+)-)?(cp\d+)-[^/]*{system}[^/]*{machine}"
    pattern = rf"/torch-{re.escape(version)}(?:\+\w+)?-{tags}\.whl$"
    own = "cp{}{}".format(*sys.version_info)
    ranked = [
        ((url.startswith("file:"), found[2] == own, int(found[1] or 0)), url)
        for url in urls
        if (found := re.search(pattern, unquote(url)))
    ]
    if not ranked:
        searched = " ".join(places)
        sys.exit(f"torch_headers: no wheel of torch {version} for {system} {machine} in {searched}")
    return max(ranked)[1]


class RangeFile(io.RawIOBase):
    """A file on a server, read by range requests, whose size io.BufferedReader chooses."""

    def __init__(self, url: str, settings: dict[str, str], size: int):
        self.url, self.settings, self.size, self.position = url, settings, size, 0

    def readable(self):
        return True

    seekable = readable

    def seek(self, offset, whence=io.SEEK_SET):
        self.position = offset + (0, self.position, self.size)[whence]
        return self.position

    def readinto(self, buffer):
        end = min(self.position + len(buffer), self.size)
        if self.position >= end:
            return 0
        with open_url(self.url, self.settings, Range=f"bytes={self.position}-{end - 1}") as answer:
            data = answer.read()
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def open_wheel(url: str, settings: dict[str, str]):
    """A wheel as a binary file; on a server by range requests where it supports them."""
    if url.startswith("file:"):
        return open(url2pathname(urlsplit(url).path), "rb")
    with suppress(HTTPError), open_url(url, settings, Range="bytes=0-0") as answer:
        if answer.status == 206:
            size = int(answer.headers["Content-Range"].rpartition("/")[2])
            return io.BufferedReader(RangeFile(url, settings, size), REQUEST_BYTES)
    print(f"torch_headers: no range requests here, downloading all of {url}", file=sys.stderr)
    file = tempfile.TemporaryFile()  # noqa: SIM115  # the caller closes it
    with open_url(url, settings) as answer:
        shutil.copyfileobj(answer, file)
    return file


def extract(archive: zipfile.ZipFile, include: Path) -> int:
    """Write the headers of SEEDS and all that they include to `include`; returns their number."""
    start = "torch/include/"
    members = {
        info.filename.removeprefix(start): info
        for info in archive.infolist()
        if info.filename.startswith(start) and not info.is_dir()
    }
    includes = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
    wanted, written = {name for name in members if name.startswith(SEEDS)}, set()
    while todo := sorted(wanted - written, key=lambda name: members[name].header_offset):
        for name in todo:
            text = archive.read(members[name])
            (include / name).parent.mkdir(parents=True, exist_ok=True)
            (include / name).write_bytes(text)
            for other in includes.findall(text.decode(errors="replace")):
                neighbour = posixpath.normpath(posixpath.join(posixpath.dirname(name), other))
                wanted |= {other, neighbour} & members.keys()
        written.update(todo)
    return len(written)


def main(version: str, out: Path) -> None:
    folder, stamp = out / "torch", out / "torch/headers_of_version.txt"
    if stamp.is_file() and stamp.read_text() == version:
        return print(f"{folder}/include: headers of torch {version}, already present")
    if folder.exists() and not stamp.is_file():
        sys.exit(
            f"torch_headers: {folder} exists and was not written by this program; "
            "choose another directory"
        )
    shutil.rmtree(folder, ignore_errors=True)
    settings = pip_settings()
    url = find_wheel(version, settings)
    with open_wheel(url, settings) as file, zipfile.ZipFile(file) as archive:
        folder.mkdir(parents=True)
        stamp.touch()
        count = extract(archive, folder / "include")
    if not count:
        sys.exit(f"torch_headers: {url} has no headers of the stable ABI")
    stamp.write_text(version)
    print(f"{folder}/include: {count} headers of {url}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python tools/torch_headers.py VERSION OUT")
    try:
        main(sys.argv[1], Path(sys.argv[2]))
    except (OSError, ValueError, zipfile.BadZipFile, subprocess.SubprocessError) as error:
        sys.exit(f"torch_headers: {error}")
