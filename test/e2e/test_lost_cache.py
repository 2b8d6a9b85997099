"""The cache directory can be deleted, in whole or in part, while the server runs: it is made again."""

import os
import shutil
from pathlib import Path

import httpx
import pytest
from server import Server, eventually, refused, run


def user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "agentsandbox"


def copy_of(file: str, to: str) -> None:
    try:
        os.link(file, to)
    except OSError:  # on another file system
        shutil.copy(file, to)


@pytest.fixture
def cached(tmp_path, server):
    """A server with a cache of its own, which begins as a copy of that of the user."""
    cache = tmp_path / "cache"
    shutil.copytree(user_cache() / "bases", cache / "bases", copy_function=copy_of)
    s = Server(tmp_path / "data", "--cache-dir", str(cache), "--pool-size", "1", "--pool-data-size", "0", "--preload", "none")
    s.start()
    yield s, cache
    assert s.stop() == 0, s.log_text()


def lose_images(cache: Path) -> None:
    shutil.rmtree(cache / "images")


def lose_all_but_bases(cache: Path) -> None:
    """Bases are left: to make one takes packages of Debian, from the network."""
    for entry in cache.iterdir():
        if entry.name != "bases":
            shutil.rmtree(entry)


def cut_the_image(cache: Path) -> None:
    """Not in place: sandboxes that run have it mapped."""
    (image,) = cache.glob("images/*/*.erofs")
    part = image.with_suffix(".part")
    with open(image, "rb") as whole, open(part, "wb") as half:
        half.write(whole.read(1 << 20))
    part.rename(image)


@pytest.mark.parametrize("lose", [lose_all_but_bases, lose_images, cut_the_image])
def test_a_lost_cache_heals(cached, lose):
    server, cache = cached
    with server.http() as http:
        sid = http.post("/v1/sessions", json={}).json()["session_id"]
        run(http, "open('kept', 'w').write('x')", session_id=sid)
        lose(cache)
        # The warm sandboxes that there are may still be claimed; then it is told what is missing.
        told = []

        def gone() -> bool:
            r = http.post("/v1/execute", json={"code": "print(1)"})
            if r.status_code == 503:
                assert int(r.headers["Retry-After"]) >= 1
                told.append(refused(r, 503, "unavailable")["message"])
            else:
                assert r.status_code == 200, r.text
            return bool(told)

        assert eventually(gone, 60)
        assert "is being made again" in told[0], told
        # By now the template may be there again, and the pool empty still.
        ready = httpx.get(server.url + "/readyz")
        assert ready.status_code == 200 or refused(ready, 503, "unavailable"), ready.text
        assert run(http, "print(open('kept').read())", session_id=sid)["stdout"] == "x\n", "a live session goes on"
        # "Ready" may still be said of warm sandboxes that there are: the log tells when the template is there.
        assert eventually(lambda: "the template is there again" in server.log.read_text(), 300), server.log_text()
        assert eventually(lambda: httpx.get(server.url + "/readyz").status_code == 200, 60)
        for _ in range(3):
            assert run(http, "print(2)")["stdout"] == "2\n"
        assert run(http, "print(3)")["stdout"] == "3\n"
        assert run(http, "print(open('kept').read())", session_id=sid)["stdout"] == "x\n"


def test_lost_snapshots_are_made_again(cached):
    server, cache = cached
    with server.http() as http:
        sid = http.post("/v1/sessions", json={}).json()["session_id"]
        shutil.rmtree(cache / "snapshots")
        # A build that begins while the directory is still being removed may fail, once.
        for _ in range(3):
            assert eventually(lambda: http.post("/v1/execute", json={"code": "print(1)"}).status_code == 200, 60)
        assert run(http, "print(2)", session_id=sid)["stdout"] == "2\n"
    assert "making a snapshot" in server.log.read_text()
