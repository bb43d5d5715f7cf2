"""A server that speaks the Hub's protocol for the real clients: standard library only, with a log and faults on demand.

Large files come in through LFS or, where a folder is given, through a content-addressed store in it (`local://`) that
the real `hf_xet` writes; the server then reads files back out of that store's blocks itself.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.publish import cas

TOKEN = "hf_" + "canaryCanaryCanaryCanaryCanary123"
TEXT = (".md", ".json", ".txt", ".gitattributes")


@dataclass
class Asked:
    """One request as the server saw it; `moved` is the bytes of its body, or of the answer to a download."""

    method: str
    path: str
    status: int = 0
    moved: int = 0
    byte_range: str = ""
    authorization: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.byte_range} -> {self.status}"


@dataclass
class Fault:
    """What happens to requests that match: an answer with that status; `reset` before or `lost` after it is done;
    `wrong` or too few (`short`) bytes; or a body that is `cut` off."""

    pattern: str
    what: int | str
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "a fault on demand"
    after: int = 0

    def hits(self, asked: str) -> bool:
        if self.times == 0 or not re.search(self.pattern, asked):
            return False
        if self.after > 0:
            self.after -= 1
            return False
        self.times -= 1
        return True


@dataclass
class Repo:
    """Commits with their whole trees (path to sha256), newest last; tags."""

    private: bool
    commits: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    def tree(self, revision: str) -> tuple[str, dict[str, str]] | None:
        wanted = self.tags.get(revision, revision)
        for oid, _, files in reversed(self.commits):
            if wanted in ("main", oid):
                return oid, files
        return None

    def commit(self, title: str, files: dict[str, str]) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {title} {sorted(files.items())}".encode()).hexdigest()
        self.commits.append((oid, title, files))
        return oid

    @property
    def files(self) -> dict[str, str]:
        return self.commits[-1][2]


class Hub:
    """The server; `url` is what HF_ENDPOINT has to be."""

    def __init__(self, cas_folder: Path | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.log: list[Asked] = []
        self.faults: list[Fault] = []
        self.cas = cas_folder
        self.kill_at = -1  # number of the request, in half steps: before it is handled, after it is answered
        self.victim = 0
        self.steps = 0
        self.before_commit: Callable[[], None] | None = None
        self.elsewhere = ""  # a host that downloads are sent on to
        self.echo = False  # send back what was sent, in error messages
        self.lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fresh(self) -> None:
        """Forget faults and the log, keep what is stored."""
        self.log, self.faults, self.kill_at, self.victim, self.steps = [], [], -1, 0, 0
        self.before_commit, self.elsewhere, self.echo = None, "", False

    def fault(self, pattern: str, what: int | str, times: int = 1, **more: object) -> None:
        self.faults.append(Fault(pattern, what, times, **more))  # type: ignore[arg-type]

    def content(self, sha256: str) -> bytes:
        data = self.blobs.get(sha256)
        if data is None and self.cas is not None:
            data = cas.read_file(self.cas, sha256)
            assert hashlib.sha256(data).hexdigest() == sha256
            self.blobs[sha256] = data
        assert data is not None, f"no bytes for {sha256}"
        return data

    def has(self, sha256: str) -> bool:
        return sha256 in self.blobs or (self.cas is not None and sha256 in cas.files(self.cas))

    def xet_hash(self, sha256: str) -> str | None:
        return cas.files(self.cas).get(sha256, (None, ()))[0] if self.cas is not None else None

    def asked(self, pattern: str) -> list[Asked]:
        return [asked for asked in self.log if re.search(pattern, f"{asked.method} {asked.path}")]

    def step(self) -> None:
        """A point at which the client may be killed."""
        with self.lock:
            number = self.steps
            self.steps += 1
        if number == self.kill_at and self.victim:
            os.kill(self.victim, signal.SIGKILL)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: Hub

    def log_message(self, format: str, *args: object) -> None:
        del format, args

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):  # the client was killed
            super().handle()

    def _serve(self) -> None:
        hub = self.server_hub
        url = urlsplit(self.path)
        path = unquote(url.path)
        asked = Asked(
            self.command,
            path,
            byte_range=self.headers.get("Range", ""),
            authorization=self.headers.get("Authorization", ""),
        )
        hub.log.append(asked)
        self.asked = asked
        self.query = parse_qs(url.query)
        hub.step()
        self.body = self._read_body()
        asked.moved = len(self.body)
        fault = next((each for each in hub.faults if each.hits(f"{asked.method} {path}")), None)
        self.fault = fault.what if fault else None
        if self.fault == "reset":
            return self._hang_up()
        if fault is not None and isinstance(fault.what, int):
            message = f"{fault.message} {asked.authorization}" if hub.echo else fault.message
            self._send(fault.what, {"error": message}, {"X-Error-Message": message, **fault.headers})
        else:
            self._route(path)
        return hub.step()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 the names http.server asks for

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        length = int(self.headers.get("Content-Length", 0))
        data = self.rfile.read(length)
        if len(data) < length:
            raise ConnectionResetError("the client was killed")
        return data

    def _send(self, status: int, value: object = None, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else b"" if value is None else json.dumps(value).encode()
        self.asked.status = status
        if self.fault == "lost":  # done, and the answer does not arrive
            return self._hang_up()
        headers = {"Content-Length": str(len(data)), "Content-Type": "application/json", **(headers or {})}
        self.send_response(status)
        for name, text in headers.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        return None

    def _refuse(self, status: int, code: str, message: str = "not here") -> None:
        self._send(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _route(self, path: str) -> None:
        hub = self.server_hub
        with hub.lock:
            if path == "/api/repos/create":
                return self._create()
            if path == "/api/validate-yaml":
                return self._send(200, {"errors": [], "warnings": []})
            kinds = r"/(?:api/(?:datasets|models)/|datasets/|(?!api/|lfs/))"  # a model has no word before its name
            if found := re.fullmatch(kinds + r"([^/]+/[^/.]+)(?:\.git)?(?:/(.*))?", path):
                name, rest = found[1], found[2] or ""
                repo = hub.repos.get(name)
                known = self.asked.authorization == f"Bearer {TOKEN}"
                if self.asked.authorization and not known:
                    return self._refuse(401, "", "Invalid credentials in Authorization header")
                if repo is None or (repo.private and not known):
                    return self._refuse(404 if known else 401, "RepoNotFound", "Repository not found")
                if path.startswith("/api/"):
                    return self._api(name, repo, rest)
                return self._files(name, repo, rest)
            if found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
                if hashlib.sha256(self.body).hexdigest() != found[1]:  # cut off: the client was killed
                    return self._send(400, {"error": "not the bytes of that name"})
                hub.blobs[found[1]] = self.body
                return self._send(200)
            return self._send(404, {"error": f"no such route {path}"})

    def _create(self) -> None:
        hub = self.server_hub
        asked = json.loads(self.body)
        name = f"{asked['organization'] or 'user'}/{asked['name']}" if "organization" in asked else asked["name"]
        if self.asked.authorization != f"Bearer {TOKEN}":
            return self._refuse(401, "", "Invalid credentials")
        url = f"{hub.url}/datasets/{name}"
        if name in hub.repos:
            return self._send(409, {"error": "exists", "url": url})
        repo = hub.repos[name] = Repo(private=asked.get("visibility") == "private" or bool(asked.get("private")))
        attributes = b"*.parquet filter=lfs\n*.tar filter=lfs\n*.webp filter=lfs\n"
        hub.blobs[hashlib.sha256(attributes).hexdigest()] = attributes
        repo.commit("initial commit", {".gitattributes": hashlib.sha256(attributes).hexdigest()})
        return self._send(200, {"url": url, "name": name, "id": name})

    def _api(self, name: str, repo: Repo, rest: str) -> None:
        hub = self.server_hub
        action, _, tail = rest.partition("/")
        if action in ("", "revision"):
            found = repo.tree(tail or "main")
            if found is None:
                return self._refuse(404, "RevisionNotFound")
            siblings = [{"rfilename": path} for path in found[1]]
            moment = "2026-01-01T00:00:00.000Z"
            facts = {"id": name, "sha": found[0], "private": repo.private, "siblings": siblings, "tags": []}
            return self._send(200, {**facts, "createdAt": moment, "lastModified": moment, "downloads": 0, "likes": 0})
        if action == "preupload":
            files = json.loads(self.body)["files"]
            return self._send(200, {"files": [self._mode(repo, file["path"]) for file in files]})
        if action == "commit":
            return self._commit(name, repo)
        if action == "tag":
            tag = json.loads(self.body)["tag"] if self.command == "POST" else tail
            if self.command == "DELETE":
                repo.tags.pop(tag, None)
                return self._send(200, {})
            if tag in repo.tags:
                return self._send(409, {"error": "tag exists"})
            found = repo.tree(tail or "main")
            if found is None:
                return self._refuse(404, "RevisionNotFound")
            repo.tags[tag] = found[0]
            return self._send(200, {})
        if action == "refs":
            tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": oid} for tag, oid in repo.tags.items()]
            main = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.commits[-1][0]}
            return self._send(200, {"branches": [main], "tags": tags, "converts": []})
        if action in ("tree", "paths-info"):
            revision, _, below = tail.partition("/")
            found = repo.tree(revision)
            if found is None:
                return self._refuse(404, "RevisionNotFound")
            if action == "tree":
                return self._tree(found[1], below)
            if self.headers.get("Content-Type", "").startswith("application/json"):
                wanted = json.loads(self.body)["paths"]
            else:
                wanted = parse_qs(self.body.decode()).get("paths", [])
            return self._send(200, [self._facts(path, found[1][path]) for path in wanted if path in found[1]])
        if action in ("xet-write-token", "xet-read-token") and hub.cas is not None:
            cas_url, expires = f"local://{hub.cas}", 4_000_000_000
            headers = {
                "X-Xet-Cas-Url": cas_url,
                "X-Xet-Access-Token": "xet",
                "X-Xet-Token-Expiration": str(expires),
            }
            return self._send(200, {"casUrl": cas_url, "accessToken": "xet", "exp": expires}, headers)
        return self._send(404, {"error": f"no such route {rest}"})

    def _mode(self, repo: Repo, path: str) -> dict[str, object]:
        regular = path.endswith(TEXT)
        sha256 = repo.files.get(path)
        oid = None
        if sha256 is not None:
            oid = _git_oid(self.server_hub.content(sha256)) if regular else sha256
        return {"path": path, "uploadMode": "regular" if regular else "lfs", "shouldIgnore": False, "oid": oid}

    def _commit(self, name: str, repo: Repo) -> None:
        hub = self.server_hub
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = lines[0]["value"]
        if hub.before_commit is not None and "parentCommit" in header:
            meddle, hub.before_commit = hub.before_commit, None
            meddle()
        parent = header.get("parentCommit")
        if parent is not None and parent != repo.commits[-1][0]:
            return self._refuse(412, "", "A commit has happened since. Please refresh and try again.")
        files = dict(repo.files)
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                data = base64.b64decode(value["content"])
                files[value["path"]] = hashlib.sha256(data).hexdigest()
                hub.blobs[files[value["path"]]] = data
            elif line["key"] == "lfsFile":
                if not hub.has(value["oid"]):
                    return self._refuse(400, "", f"LFS object {value['oid']} is not there")
                files[value["path"]] = value["oid"]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repo.commit(header["summary"], files)
        answer = {"success": True, "commitOid": oid, "commitUrl": f"{hub.url}/datasets/{name}/commit/{oid}"}
        return self._send(200, {**answer, "hookOutput": ""})

    def _facts(self, path: str, sha256: str) -> dict[str, object]:
        data = self.server_hub.content(sha256)
        facts: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": _git_oid(data)}
        if not path.endswith(TEXT):
            facts |= {"lfs": {"oid": sha256, "size": len(data), "pointerSize": 130}}
            if xet := self.server_hub.xet_hash(sha256):
                facts["xetHash"] = xet
        return facts

    def _tree(self, files: dict[str, str], below: str) -> None:
        start = f"{below}/" if below else ""
        inside = {path: sha256 for path, sha256 in files.items() if path.startswith(start)}
        if below and not inside:
            return self._refuse(404, "EntryNotFound")
        recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        found: dict[str, dict[str, object]] = {}
        for path, sha256 in sorted(inside.items()):
            first, deeper, _ = path[len(start) :].partition("/")
            folder = start + first
            if deeper:
                found.setdefault(folder, {"type": "directory", "path": folder, "size": 0, "oid": "0" * 40})
            if recursive or not deeper:
                found[path] = self._facts(path, sha256)
        return self._send(200, list(found.values()))

    def _files(self, name: str, repo: Repo, rest: str) -> None:
        hub = self.server_hub
        if rest == "info/lfs/objects/batch":
            objects = []
            for item in json.loads(self.body)["objects"]:
                if not hub.has(item["oid"]):
                    href = f"{hub.url}/lfs/{item['oid']}"
                    item["actions"] = {"upload": {"href": href, "header": {}}}
                objects.append(item)
            return self._send(200, {"transfer": "basic", "objects": objects})
        action, _, tail = rest.partition("/")
        revision, _, path = tail.partition("/")
        found = repo.tree(revision) if action == "resolve" else None
        if found is None:
            return self._refuse(404, "RevisionNotFound")
        oid, files = found
        if path not in files:
            return self._refuse(404, "EntryNotFound")
        if hub.elsewhere and self.command == "GET":
            return self._send(302, None, {"Location": f"{hub.elsewhere}/cdn/{files[path]}"})
        data = hub.content(files[path])
        etag = _git_oid(data) if path.endswith(TEXT) else files[path]
        headers = {
            "X-Repo-Commit": oid,
            "ETag": f'"{etag}"',
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(len(data)),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if (xet := hub.xet_hash(files[path])) is not None:
            headers |= {
                "X-Xet-Hash": xet,
                "X-Xet-Refresh-Route": f"{hub.url}/api/datasets/{name}/xet-read-token/{oid}",
            }
        return self._send_range(data, headers)

    def _send_range(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        status, body = 200, data
        if wanted:
            start, stop = int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else len(data)
            status, body = 206, data[start:stop]
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(data)}"
        if self.fault == "wrong":
            body = bytes([body[0] ^ 1]) + body[1:]
        if self.fault == "short":
            body = body[: len(body) // 2]
        if self.fault == "cut":
            headers["Content-Length"] = str(len(body))
            self.close_connection = True
            body = body[: len(body) // 2]
        self.asked.moved = len(body)
        if self.command == "HEAD":
            headers["Content-Length"] = str(len(data))
            body = b""
        return self._send(status, body, headers)


class Elsewhere:
    """Another host that the Hub sends downloads on to, as it does to its content network; keeps what it was sent."""

    def __init__(self, hub: Hub) -> None:
        self.log: list[Asked] = []
        outer = self

        class Handler(_Handler):
            server_hub = hub

            def _serve(self) -> None:
                self.asked = Asked(self.command, self.path, authorization=self.headers.get("Authorization", ""))
                outer.log.append(self.asked)
                self.fault = None
                self._send_range(hub.content(self.path.rpartition("/")[2]), {"Content-Type": "binary"})

            do_GET = do_HEAD = _serve  # noqa: N815 the names http.server asks for

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://localhost:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@contextlib.contextmanager
def running(cas_folder: Path | None = None) -> Iterator[Hub]:
    """A server for the length of the block."""
    hub = Hub(cas_folder)
    try:
        yield hub
    finally:
        hub.stop()
