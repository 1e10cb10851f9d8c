"""A stand-in for the hub on the loopback interface: repositories with a history, pushes that break off."""

import base64
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "a" * 40
LARGE = (".safetensors", ".bin", ".parquet", ".zip", ".png")
"""Files that are kept as LFS objects, known by their SHA-256; the others are known by their git blob's SHA-1."""


@dataclass
class Repository:
    """Commits, oldest first, as (sha, files by name); the last one is `main`."""

    private: bool = False
    commits: list[tuple[str, dict[str, bytes]]] = field(default_factory=list)

    def at(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit[0] == revision), None)

    def commit(self, files: dict[str, bytes], sha: str = "") -> str:
        told = "".join(f"{name} {oid(name, data)}\n" for name, data in sorted(files.items()))
        sha = sha or hashlib.sha1(f"{len(self.commits)}\n{told}".encode()).hexdigest()
        self.commits.append((sha, dict(files)))
        return sha


def oid(name: str, data: bytes) -> str:
    if name.endswith(LARGE):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def entry(name: str, data: bytes) -> dict:
    lfs = {"oid": oid(name, data), "sha256": oid(name, data), "size": len(data), "pointerSize": 130}
    told = {"path": name, "rfilename": name, "size": len(data), "oid": oid(name, data), "blobId": oid(name, data)}
    return {"type": "file", **told, **({"lfs": lfs} if name.endswith(LARGE) else {})}


def refused(status: int, code: str = "", message: str = "") -> tuple:
    return status, {"error": message or code}, {"X-Error-Code": code, "X-Error-Message": message or code}


class HubStandIn:
    """Serves the files of `folder` as the repository `repo` (`kind`: datasets or models) at COMMIT, and what is pushed
    to it later; `url` is its HF_ENDPOINT.

    `tokens`: token -> user. A user may write to the repositories below the user's name, and read them where they are
    private. `requests`: what was asked, as 'METHOD path'. From request number `break_from` (counted in `requests`) on,
    every connection is closed without an answer; with `answers_lost` the request is still carried out.
    """

    def __init__(self, folder: Path | None = None, repo: str = "", kind: str = "datasets", tokens=None, private=False):
        self.commit, self.tokens, self.objects = COMMIT, dict(tokens or {}), {}
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[str] = []
        self.break_from, self.answers_lost = None, False
        if folder is not None:
            files = {path.relative_to(folder).as_posix(): path.read_bytes()
                     for path in sorted(folder.rglob("*")) if path.is_file()}
            self.add(repo, files, kind, private, COMMIT)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def add(self, repo: str, files: dict[str, bytes], kind="models", private=False, sha="") -> str:
        """A commit of `files` (all there are then) on the repository, made where it is not there; returns its sha."""
        return self.repositories.setdefault((kind, repo), Repository(private)).commit(files, sha)

    def files(self, repo: str, kind: str = "models") -> dict[str, bytes]:
        return self.repositories[kind, repo].commits[-1][1]

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, target: str, headers, body: bytes) -> tuple | None:
        """(status, bytes or JSON, headers) of a request; None where the connection is to be closed instead."""
        self.requests.append(f"{method} {target}")
        broken = self.break_from is not None and len(self.requests) >= self.break_from
        if broken and not self.answers_lost:
            return None
        url = urlsplit(target)
        told = self.route(method, unquote(url.path), parse_qs(url.query), headers, body)
        return None if broken else told

    def route(self, method, path, query, headers, body) -> tuple:
        token = (headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in self.tokens:
            return refused(401, message="Invalid credentials in Authorization header")
        user = self.tokens.get(token)
        if path == "/api/whoami-v2":
            return (200, {"type": "user", "name": user, "orgs": []}, {}) if user else refused(401)
        if path == "/api/repos/create":
            return self.create(user, json.loads(body))
        if path == "/api/validate-yaml":
            wrong = [] if json.loads(body)["content"].startswith("---\n") else [{"message": "no metadata"}]
            return (400 if wrong else 200), {"errors": wrong, "warnings": []}, {}
        if path.startswith("/lfs/"):
            self.objects[hashlib.sha256(body).hexdigest()] = body
            return 200, b"", {}
        return self.in_repository(method, path, query, user, body)

    def in_repository(self, method, path, query, user, body) -> tuple:
        owner_name = r"(?P<repo>[^/]+/[^/]+?)"
        for pattern in (rf"/api/(?P<kind>models|datasets)/{owner_name}(?:/(?P<verb>[a-z-]+)/(?P<rest>.*))?",
                        rf"/(?P<kind>datasets/)?{owner_name}(?:\.git/info/lfs/objects/(?P<verb>batch)(?P<rest>))",
                        rf"/(?P<kind>datasets/)?{owner_name}/(?P<verb>resolve)/(?P<rest>.*)"):
            if found := re.fullmatch(pattern, path):
                break
        else:
            return refused(404)
        kind, repo = (found["kind"] or "models").rstrip("/"), found["repo"]
        verb, rest = found["verb"] or "revision", found["rest"] or "main"
        repository, own = self.repositories.get((kind, repo)), user == repo.split("/")[0]
        if repository is None or (repository.private and not own):
            return refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if method == "POST" and verb in ("preupload", "batch", "commit") and not own:
            return refused(403, message="You don't have the required permissions")
        if verb == "batch":
            return self.batch(json.loads(body))
        revision, _, below = rest.partition("/")
        commit = repository.at(revision)
        if commit is None:
            return refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        sha, files = commit
        if verb == "resolve":
            return self.resolve(sha, files, below)
        if verb in ("tree", "paths-info"):
            return 200, listing(files, below, body), {}
        if verb == "preupload":
            return 200, preupload(files, json.loads(body)["files"]), {}
        if verb == "commit":
            return self.push(repository, repo, body)
        told = [entry(*pair) for pair in files.items()]
        siblings = told if "blobs" in query else [{"rfilename": file["rfilename"]} for file in told]
        return 200, {"id": repo, "_id": "1", "sha": sha, "siblings": siblings, "tags": [], "downloads": 0,
                     "private": repository.private}, {}

    def create(self, user, asked) -> tuple:
        kind = f"{asked.get('type', 'model')}s"
        repo = f"{asked.get('organization') or user}/{asked['name']}"
        if user is None or user != repo.split("/")[0]:
            return refused(403 if user else 401, message="You don't have the rights to create a model")
        if (kind, repo) in self.repositories:
            return 409, {"error": "You already created this model repo", "url": f"{self.url}/{repo}"}, {}
        self.add(repo, {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}, kind,
                 asked.get("visibility") == "private" or bool(asked.get("private")))
        return 200, {"url": f"{self.url}/{repo}"}, {}

    def batch(self, asked) -> tuple:
        told = []
        for item in asked["objects"]:
            upload = {"actions": {"upload": {"href": f"{self.url}/lfs/{item['oid']}"}}}
            told.append({"oid": item["oid"], "size": item["size"], **({} if item["oid"] in self.objects else upload)})
        return 200, {"transfer": "basic", "objects": told}, {}

    def push(self, repository, repo, body) -> tuple:
        files = dict(repository.commits[-1][1])
        for line in body.splitlines():
            key, value = (told := json.loads(line))["key"], told["value"]
            if key == "header" and value.get("parentCommit", repository.commits[-1][0]) != repository.commits[-1][0]:
                return refused(412, message="A commit has happened since. Please refresh and try again.")
            if key == "deletedFile":
                del files[value["path"]]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.objects:
                    return refused(400, message=f"{value['path']} was not uploaded")
                files[value["path"]] = self.objects[value["oid"]]
        sha = repository.commit(files)
        return 200, {"success": True, "commitOid": sha, "commitUrl": f"{self.url}/{repo}/commit/{sha}"}, {}

    def resolve(self, sha, files, name) -> tuple:
        if name not in files:
            status, told, headers = refused(404, "EntryNotFound")
            return status, told, headers | {"X-Repo-Commit": sha}
        tag, size = oid(name, files[name]), str(len(files[name]))
        linked = {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": size} if name.endswith(LARGE) else {}
        return 200, files[name], {"ETag": f'"{tag}"', "X-Repo-Commit": sha, "Accept-Ranges": "bytes", **linked}


def listing(files: dict[str, bytes], below: str, body: bytes) -> list[dict]:
    """Entries of the files (and folders) under `below`, or of the paths that the body asks for."""
    entries = [entry(*pair) for pair in files.items()]
    folders = {parent.as_posix() for name in files for parent in Path(name).parents} - {"."}
    entries += [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in sorted(folders)]
    if not body:
        return [file for file in entries if file["path"].startswith(below)]
    text = body.decode()
    paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
    return [file for file in entries if file["path"] in paths]


def preupload(files: dict[str, bytes], asked: list[dict]) -> dict:
    told = []
    for item in asked:
        name = item["path"]
        known = {"oid": oid(name, files[name])} if name in files else {}
        told.append({"path": name, "uploadMode": "lfs" if name.endswith(LARGE) else "regular", "shouldIgnore": False,
                     **known})
    return {"files": told}


def use(monkeypatch, url: str, home: Path, token: str | None = None) -> list[float]:
    """Make `url` the hub of this process, with its cache in `home`; returns the seconds that retries would wait (they
    are counted, not waited for). A process that starts anew has HF_ENDPOINT and HF_HOME for that."""
    from huggingface_hub import close_session, constants
    from huggingface_hub.utils import _http

    told = {"ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"), "HF_TOKEN_PATH": str(home / "token"), "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True, "HF_HUB_DISABLE_IMPLICIT_TOKEN": False}
    for name, value in told.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    waited: list[float] = []
    monkeypatch.setattr(_http.time, "sleep", waited.append)
    close_session()
    return waited


def settings(url: str, home: Path, token: str | None = None) -> dict[str, str]:
    """The environment of a process whose hub is `url`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    told = {"HF_HOME": str(home), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    return kept | told | ({"HF_TOKEN": token} if token else {})


def handler_of(stand_in: HubStandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def reply(self):
            length = self.headers.get("Content-Length")
            body = self.rfile.read(int(length)) if length else b""
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            answer = stand_in.answer(self.command, self.path, self.headers, body)
            self.close_connection = True        # nothing of a client hangs on a hub that is closed
            if answer is None:
                return
            status, data, headers = answer
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if part and status == 200:
                first, last = int(part[1]), min(int(part[2] or len(data) - 1), len(data) - 1)
                headers, status = headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"}, 206
                data = data[first : last + 1]
            self.send_response(status)
            for name, value in headers.items():
                if value:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_HEAD = do_POST = do_PUT = reply

        def log_message(self, *args):
            pass

    return Handler
