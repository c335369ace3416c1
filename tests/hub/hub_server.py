"""A model hub on this machine: the read API that huggingface_hub and datasets use, with the hub's own ways to refuse.

In: repositories as files in memory.  Out: HTTP on a local port. Small files are redirected to a cache (307), large and
binary ones to another host name (302) with the headers of LFS; ranges work. Gated repositories answer 401 without a
token, and 403 with one that isn't accepted. Faults: every n-th request fails with a status, each answer is late, the
bytes of a file end early.
Source: what the libraries of requirements.lock ask for. Known gap: Xet storage, by which the real hub serves LFS files.
"""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

ACCEPTED = "hf_accepted"
_LFS_SUFFIXES = (".safetensors", ".parquet", ".bin", ".model")
_SMALL = 1 << 20


@dataclass
class Repository:
    """One commit of a model or a data set."""

    kind: str  # model or dataset
    name: str  # organisation/name
    commit: str
    files: dict[str, bytes] = field(default_factory=dict)
    gated: bool = False
    refs: dict[str, str] = field(default_factory=dict)  # branch or pull request -> commit

    def knows(self, revision: str) -> bool:
        return revision in ("main", self.commit, *self.refs)


class RefusedError(Exception):
    """An answer that isn't 200."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        self.status, self.message = status, message
        self.headers = {"X-Error-Message": message, **({"X-Error-Code": code} if code else {}), **headers}


class HubServer:
    """Use as a context manager; faults may be set while it serves."""

    def __init__(self, *repositories: Repository) -> None:
        self.repositories = {(one.kind, one.name): one for one in repositories}
        self.fail_every: tuple[int, int] | None = None  # of requests, and the status
        self.lag_s = 0.0
        self.cut: str | None = None  # the file whose bytes end early
        self.mirror = False  # as mirrors do, it has no word on logins
        self.asked: list[str] = []  # "GET /path"
        self.statuses: Counter[int] = Counter()
        self.lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def downloads(self) -> list[str]:
        """Paths of files whose bytes were sent."""
        return [one.removeprefix("GET ") for one in self.asked if re.match(r"GET /(cdn|api/resolve-cache)/", one)]


def is_lfs(path: str, content: bytes) -> bool:
    return path.endswith(_LFS_SUFFIXES) or len(content) > _SMALL


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as listings have it."""
    found: dict[str, Any] = {"type": "file", "oid": blob_id(content), "size": len(content), "path": path}
    if is_lfs(path, content):
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return found


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        body = b""

        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.serve()

        def do_HEAD(self) -> None:
            self.serve()

        def do_POST(self) -> None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.serve()

        def serve(self) -> None:
            time.sleep(hub.lag_s)
            with hub.lock:
                hub.asked.append(f"{self.command} {urlsplit(self.path).path}")
                number = len(hub.asked)
            try:
                if hub.fail_every and number % hub.fail_every[0] == 0:
                    raise RefusedError(hub.fail_every[1], "", "made to fail", **{"Retry-After": "0"})
                self.route()
            except RefusedError as no:
                self.send(no.status, json.dumps({"error": no.message}).encode(), no.headers)

        def token(self) -> str:
            return (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()

        def repository(self, kind: str, name: str) -> Repository:
            found = hub.repositories.get((kind, name))
            if found is None:  # the hub doesn't tell strangers which private repositories there are
                raise RefusedError(404 if self.token() else 401, "RepoNotFound", "Repository not found")
            return found

        def check_access(self, found: Repository) -> None:
            if not found.gated or self.token() == ACCEPTED:
                return
            if not self.token():
                raise RefusedError(401, "GatedRepo", f"Access to {found.kind} {found.name} is restricted. Log in.")
            why = f"Access to {found.kind} {found.name} is restricted and you are not in the authorized list."
            raise RefusedError(403, "GatedRepo", why)

        def at(self, found: Repository, revision: str) -> dict[str, bytes]:
            if not found.knows(revision):
                raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return found.files

        def route(self) -> None:
            url = urlsplit(self.path)
            path = url.path
            routes = (
                (r"/api/whoami-v2", self.whoami),
                (r"/cdn/(model|dataset)/([^/]+/[^/]+)/(.+)", self.content),
                (r"/api/resolve-cache/(model|dataset)s/([^/]+/[^/]+)/[0-9a-f]{40}/(.+)", self.content),
                (r"/api/(model|dataset)s/([^/]+/[^/]+)(?:/revision/([^/]+))?", self.info),
                (r"/api/(model|dataset)s/([^/]+/[^/]+)/tree/([^/]+)(?:/(.*))?", self.tree),
                (r"/api/(model|dataset)s/([^/]+/[^/]+)/paths-info/([^/]+)", self.paths_info),
                (r"/api/(model|dataset)s/([^/]+/[^/]+)/auth-check", self.auth_check),
                (r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.resolve),
            )
            for pattern, answer in routes:
                if match := re.fullmatch(pattern, path):
                    answer(*(None if part is None else unquote(part) for part in match.groups()))
                    return
            raise RefusedError(404, "", f"no such route: {self.command} {self.path}")

        def whoami(self) -> None:
            if not self.token():
                raise RefusedError(401, "", "Invalid username or password.")
            self.json({"type": "user", "name": "tester", "auth": {"accessToken": {"displayName": "t", "role": "read"}}})

        def auth_check(self, kind: str, name: str) -> None:
            if hub.mirror:
                raise RefusedError(404, "", "no such route")
            self.check_access(self.repository(kind, name))
            self.json({})

        def info(self, kind: str, name: str, revision: str | None) -> None:
            found = self.repository(kind, name)
            files = self.at(found, revision or "main")
            gated = "manual" if found.gated else False
            facts = {"id": name, "author": name.split("/")[0], "sha": found.commit, "private": False, "gated": gated}
            siblings = [{"rfilename": path} for path in files]
            dates = dict.fromkeys(("lastModified", "createdAt"), "2025-01-01T00:00:00.000Z")
            self.json({**facts, **dates, "tags": [], "downloads": 1, "likes": 1, "siblings": siblings})

        def tree(self, kind: str, name: str, revision: str, under: str | None) -> None:
            files = self.at(self.repository(kind, name), revision)
            prefix = f"{under}/" if under else ""
            inside = {path: content for path, content in files.items() if path.startswith(prefix)}
            if under and not inside:
                raise RefusedError(404, "EntryNotFound", f"{under} does not exist on {revision}")
            deep = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
            listed, folders = list[dict[str, Any]](), set[str]()
            for path, content in inside.items():
                parts = path[len(prefix) :].split("/")
                folders |= {prefix + "/".join(parts[:n]) for n in range(1, len(parts)) if deep or n == 1}
                listed += [entry(path, content)] if deep or len(parts) == 1 else []
            self.json(listed + [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in sorted(folders)])

        def paths_info(self, kind: str, name: str, revision: str) -> None:
            files = self.at(self.repository(kind, name), revision)
            text = self.body.decode()
            paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
            folder = {"type": "directory", "oid": "0" * 40, "size": 0}
            known = [entry(path, files[path]) for path in paths if path in files]
            deeper = [path for path in paths if any(one.startswith(f"{path}/") for one in files)]
            self.json(known + [{**folder, "path": path} for path in deeper])

        def resolve(self, dataset: str | None, name: str, revision: str, path: str) -> None:
            found = self.repository("dataset" if dataset else "model", name)
            self.check_access(found)
            files = self.at(found, revision)
            if path not in files:
                raise RefusedError(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": found.commit})
            content = files[path]
            size = {"X-Linked-Size": str(len(content)), "X-Repo-Commit": found.commit, "Accept-Ranges": "bytes"}
            if is_lfs(path, content):
                sha = hashlib.sha256(content).hexdigest()
                place = f"http://localhost:{hub.port}/cdn/{found.kind}/{name}/{path}"
                self.send(302, b"Found", {**size, "X-Linked-ETag": f'"{sha}"', "Location": place})
            else:
                place = f"/api/resolve-cache/{found.kind}s/{name}/{found.commit}/{path}"
                self.send(307, b"Temporary", {**size, "ETag": f'"{blob_id(content)}"', "Location": place})

        def content(self, kind: str, name: str, path: str) -> None:
            found = self.repository(kind, name)
            if self.command == "GET" and not path.endswith(_LFS_SUFFIXES):
                self.check_access(found)
            content = found.files[path]
            tag = hashlib.sha256(content).hexdigest() if is_lfs(path, content) else blob_id(content)
            head = {"ETag": f'"{tag}"', "Accept-Ranges": "bytes", "X-Repo-Commit": found.commit}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if hub.cut == path and self.command == "GET":
                self.send(200, content[: len(content) // 2], head, length=len(content))
                self.close_connection = True
            elif wanted and int(wanted[1]) < len(content):
                first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
                head["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
                self.send(206, content[first : last + 1], head)
            elif wanted:
                self.send(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            else:
                self.send(200, content, head)

        def json(self, value: Any) -> None:
            self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def send(self, status: int, body: bytes, headers: dict[str, str], length: int | None = None) -> None:
            with hub.lock:
                hub.statuses[status] += 1
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
