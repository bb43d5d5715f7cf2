"""Two small corpora, a Hub with and without xet, an S3, and clients that know where they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from dataforge.report import write_descriptions
from manifests.corpus import open_corpus
from manifests.header import read_header
from manifests.writer import CorpusContent
from tests.manifests.corpora import small_content, write_corpus
from tests.publish.clients import Clients, Done
from tests.publish.hub import TOKEN, Hub


def stated(content: CorpusContent, *, parquet: bool) -> CorpusContent:
    """The same corpus with the consent of every subject stated."""
    subjects = [
        replace(subject, credit="A. Photographer", consent="given for research") for subject in content.subjects
    ]
    return replace(content, subjects=subjects, parquet=parquet)


def make(root: Path, content: CorpusContent, *, parquet: bool = True) -> Path:
    write_corpus(root, stated(content, parquet=parquet))
    with open_corpus(root) as corpus:
        write_descriptions(corpus)
    return root


@pytest.fixture(scope="session")
def both_shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with shards and data files; never changed."""
    return make(tmp_path_factory.mktemp("published") / "both", small_content())


@pytest.fixture(scope="session")
def shards_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same corpus without data files; never changed."""
    return make(tmp_path_factory.mktemp("published") / "shards", small_content(), parquet=False)


@pytest.fixture
def copy(both_shapes: Path, tmp_path: Path) -> Path:
    """A copy of the corpus for a test to change."""
    return Path(shutil.copytree(both_shapes, tmp_path / "copy"))


@dataclass
class Place:
    """A repository of this test's own on a running Hub, and clients of that Hub."""

    hub: Hub
    clients: Clients
    name: str
    cache: Path

    @property
    def ref(self) -> str:
        return f"hf://datasets/{self.name}"

    @property
    def files(self) -> dict[str, str]:
        return self.hub.repos[self.name].files

    def dataforge(self, *arguments: object, **more: object) -> Done:
        environment = {"DATAFORGE_CACHE": str(self.cache), "DATAFORGE_PATIENCE_S": "20"}
        return self.clients.dataforge(*arguments, **{**environment, **more})  # type: ignore[arg-type]

    def publish(self, corpus: Path, *arguments: str, **more: object) -> Done:
        return self.dataforge("publish", corpus, self.ref, *arguments, **more)

    def python(self, code: str, **more: object) -> Done:
        done = self.clients.python(code, **{"DATAFORGE_CACHE": str(self.cache), **more})  # type: ignore[arg-type]
        assert done.code == 0, done.err
        return done


@dataclass
class Station:
    """A running Hub and its clients."""

    hub: Hub
    clients: Clients
    numbers: Iterator[int]

    def place(self, folder: Path) -> Place:
        self.hub.fresh()
        return Place(self.hub, self.clients, f"user/corpus-{next(self.numbers)}", folder / "cache")


def _station(folder: Path, *, xet: bool) -> Iterator[Station]:
    store = folder / "store"
    store.mkdir()
    hub = Hub(store if xet else None)
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(folder / "home"),
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "TMPDIR": str(folder),
        **({} if xet else {"HF_HUB_DISABLE_XET": "1"}),
    }
    clients = Clients(environment, folder)
    yield Station(hub, clients, iter(range(1000)))
    clients.stop()
    hub.stop()


@pytest.fixture(scope="session")
def lfs_station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    yield from _station(tmp_path_factory.mktemp("lfs"), xet=False)


@pytest.fixture(scope="session")
def xet_station(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    yield from _station(tmp_path_factory.mktemp("xet"), xet=True)


@pytest.fixture(params=["lfs", "xet"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A new repository, on a Hub without and on one with xet."""
    station: Station = request.getfixturevalue(f"{request.param}_station")
    return station.place(tmp_path)


@pytest.fixture
def lfs(lfs_station: Station, tmp_path: Path) -> Place:
    """A new repository on the Hub without xet."""
    return lfs_station.place(tmp_path)


@pytest.fixture
def xet(xet_station: Station, tmp_path: Path) -> Place:
    """A new repository on the Hub with xet."""
    return xet_station.place(tmp_path)


@pytest.fixture(scope="session")
def published_once(lfs_station: Station, both_shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = lfs_station.place(tmp_path_factory.mktemp("cache"))
    done = place.publish(both_shapes)
    assert done.code == 0, done.err
    return place


@pytest.fixture
def published(published_once: Place) -> Place:
    """A published corpus with both shapes, for tests that only read; the Hub does what it should."""
    published_once.hub.fresh()
    return published_once


def digest_of(root: Path) -> str:
    return read_header(root).digest


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """The address of an S3 that real clients talk to; this process's environment names it while tests run."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A new bucket, `s3://...`."""
    import s3fs

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canarySecretCanarySecretCanary")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("DATAFORGE_CACHE", str(tmp_path / "cache"))
    name = f"corpora-{abs(hash(tmp_path)) % 10**9}"
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}/things"
