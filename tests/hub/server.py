"""A small Hugging Face hub on 127.0.0.1: repositories in memory behind the routes that the client libraries call.

It speaks plain HTTP, keeps a log of the requests, and can misbehave on demand: private and gated repositories, files
that end too early, a hub that answers every request with an error, a hub that is gone.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["models", "datasets"]
TOKEN = "hf_" + "t" * 34  # opens private repositories, and gated ones
STRANGER = "hf_" + "s" * 34  # a valid token that opens neither

_API = re.compile(r"/api/(models|datasets)/(.+?)(?:/(tree|paths-info|revision|refs|treesize)(?:/([^/]+)(?:/(.*))?)?)?")
_RESOLVE = re.compile(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """A repository: files by commit, and the names of commits."""

    kind: Kind
    name: str
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False
    truncated: set[str] = field(default_factory=set)
    """Files of which only the first half is sent, under the full length."""

    def commit(self, files: dict[str, bytes], *, ref: str = "main") -> str:
        """Add a commit with exactly these files and point a branch or tag at it; return its hash."""
        state = hashlib.sha1(f"{self.name} {len(self.commits)}".encode())
        for path in sorted(files):
            state.update(path.encode() + files[path])
        self.commits[state.hexdigest()] = dict(files)
        self.refs[ref] = state.hexdigest()
        return state.hexdigest()

    def files(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """The commit hash and the files of a revision, or None."""
        commit = self.refs.get(revision, revision)
        return (commit, self.commits[commit]) if commit in self.commits else None


class LocalHub:
    """The server and its repositories; ``close`` ends it.

    Attributes:
        url: What HF_ENDPOINT has to be.
        requests: Every request so far, as "METHOD path".
        failure: A status code with which every request is answered; None for normal service.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.failure: int | None = None
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def add(
        self, kind: Kind, name: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False
    ) -> Repository:
        """Add a repository with one commit on its main branch."""
        repository = Repository(kind, name, private=private, gated=gated)
        repository.commit(files)
        self.repositories[kind, name] = repository
        return repository

    def close(self) -> None:
        """Stop serving and free the port: from now on connections are refused."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing on stderr."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        self.hub.requests.append(f"{self.command} {self.path}")
        if self.hub.failure is not None:
            self._error(self.hub.failure, "", "out of order")
            return
        address = urlsplit(self.path)
        path, query = unquote(address.path), parse_qs(address.query)
        if match := _RESOLVE.fullmatch(path):
            self._resolve("datasets" if match[1] else "models", *match.group(2, 3, 4))
        elif match := _API.fullmatch(path):
            self._api(match, query, body)
        else:
            self._error(404, "", "no such page")

    def _api(self, match: re.Match[str], query: dict[str, list[str]], body: bytes) -> None:
        kind, name, route, revision, rest = match.groups()
        repository = self._repository(kind, name, files=False)
        if repository is None:
            return
        if route == "refs":
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repository.refs.items()]
            self._json({"branches": branches, "tags": [], "converts": []})
            return
        found = repository.files(unquote(revision or "main"))
        if found is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif route in (None, "revision"):
            self._json(_info(repository, *found))
        elif route == "tree":
            entries = _tree(found[1], rest or "", recursive=query.get("recursive", ["false"])[0].lower() == "true")
            if rest and not entries:
                self._error(404, "EntryNotFound", f"{rest} does not exist")
            else:
                self._json(entries)
        elif route == "paths-info":
            self._json(_paths_info(found[1], _wanted(body, self.headers.get("Content-Type", ""))))
        else:
            self._error(404, "", "no such route")

    def _resolve(self, kind: Kind, name: str, revision: str, path: str) -> None:
        repository = self._repository(kind, name, files=True)
        if repository is None:
            return
        found = repository.files(revision)
        if found is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif path not in found[1]:
            self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": found[0]})
        else:
            self._file(found[0], found[1][path], truncated=path in repository.truncated)

    def _repository(self, kind: str, name: str, *, files: bool) -> Repository | None:
        """The repository if the caller may see it; otherwise the refusal is already sent.

        As on the real hub, a repository that is not there looks to a stranger like one that is private, and the
        description of a gated one is public while its files are not.
        """
        repository = self.hub.repositories.get((kind, name))
        authorization = self.headers.get("Authorization")
        trusted = authorization == f"Bearer {TOKEN}"
        if authorization and authorization not in (f"Bearer {TOKEN}", f"Bearer {STRANGER}"):
            self._error(401, "", "Invalid credentials in Authorization header")
        elif repository is None or (repository.private and not trusted):
            self._error(404 if authorization else 401, "RepoNotFound", "Repository not found")
        elif repository.gated and files and not authorization:
            self._error(401, "GatedRepo", "Access to this repository is restricted. You must be authenticated.")
        elif repository.gated and files and not trusted:
            self._error(403, "GatedRepo", "Access to this repository is restricted: you are not on the list.")
        else:
            return repository
        return None

    def _file(self, commit: str, content: bytes, *, truncated: bool) -> None:
        start, stop = 0, len(content)
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(match[1]), min(stop, int(match[2]) + 1) if match[2] else stop
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"
        self.send_response(206 if match else 200)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[start : min(stop, len(content) // 2) if truncated else stop])
        if truncated:
            self.close_connection = True

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        reasons = {"X-Error-Code": code, "X-Error-Message": message} if code else {"X-Error-Message": message}
        self._send(
            status,
            json.dumps({"error": message}).encode(),
            {"Content-Type": "application/json", **reasons, **(headers or {})},
        )

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _info(repository: Repository, commit: str, files: dict[str, bytes]) -> dict[str, object]:
    siblings = [{"rfilename": path, "size": len(content)} for path, content in sorted(files.items())]
    return {
        "_id": commit[:24],
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.partition("/")[0],
        "sha": commit,
        "private": repository.private,
        "gated": "manual" if repository.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": "2024-01-01T00:00:00.000Z",
        "createdAt": "2024-01-01T00:00:00.000Z",
        "siblings": siblings,
    }


def _entry(path: str, content: bytes) -> dict[str, object]:
    blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    return {"type": "file", "path": path, "size": len(content), "oid": blob}


def _folders(files: dict[str, bytes]) -> set[str]:
    return {"/".join(path.split("/")[:n]) for path in files for n in range(1, path.count("/") + 1)}


def _folder(path: str) -> dict[str, object]:
    return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}


def _tree(files: dict[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, object]]:
    prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""

    def inside(path: str) -> bool:
        return path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])

    entries = [_folder(path) for path in sorted(_folders(files)) if inside(path)]
    return entries + [_entry(path, content) for path, content in sorted(files.items()) if inside(path)]


def _paths_info(files: dict[str, bytes], paths: list[str]) -> list[dict[str, object]]:
    found = [_entry(path, files[path]) for path in paths if path in files]
    return found + [_folder(path) for path in paths if path in _folders(files)]


def _wanted(body: bytes, content_type: str) -> list[str]:
    if "json" in content_type:
        paths = json.loads(body or b"{}").get("paths", [])
        return [paths] if isinstance(paths, str) else list(paths)
    return parse_qs(body.decode()).get("paths", [])
