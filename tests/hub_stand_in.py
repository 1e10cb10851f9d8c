"""A stand-in for the hub on the loopback interface: enough HTTP to load one data set or one model."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


class HubStandIn:
    """Serves the files of `folder` as the repository `repo` (`kind`: datasets or models) at COMMIT; `url` is its
    HF_ENDPOINT."""

    def __init__(self, folder: Path, repo: str, kind: str = "datasets"):
        self.folder, self.repo, self.commit, self.kind = folder, repo, COMMIT, kind
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                stand_in.answer(self, body=True)

            def do_HEAD(self):
                stand_in.answer(self, body=False)

            def do_POST(self):
                length = int(self.headers.get("Content-Length") or 0)
                asked = json.loads(self.rfile.read(length) or b"{}") if length else {}
                stand_in.answer(self, body=True, paths=asked.get("paths", []))

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def files(self):
        return [path for path in sorted(self.folder.rglob("*")) if path.is_file()]

    def entry(self, path):
        data = path.read_bytes()
        name = path.relative_to(self.folder).as_posix()
        return {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}

    def answer(self, request, body, paths=None):
        path = unquote(urlsplit(request.path).path)
        place = f"/datasets/{self.repo}" if self.kind == "datasets" else f"/{self.repo}"
        api, resolve = f"/api/{self.kind}/{self.repo}", f"{place}/resolve/"
        if path.startswith(resolve):
            return self.send_file(request, path[len(resolve) :].split("/", 1)[1], body)
        if path.startswith(f"{api}/tree/") or path.startswith(f"{api}/paths-info/"):
            below = "/".join(path.split("/")[7:]) if "/tree/" in path else ""
            entries = [self.entry(file) for file in self.files()]
            folders = sorted({str(Path(entry["path"]).parent) for entry in entries} - {"."})
            entries += [{"type": "directory", "path": name, "size": 0, "oid": "0" * 40} for name in folders]
            chosen = [entry for entry in entries if entry["path"].startswith(below)]
            if paths is not None:
                chosen = [entry for entry in entries if entry["path"] in paths]
            return self.send(request, 200, json.dumps(chosen).encode(), body)
        if path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": self.entry(file)["path"]} for file in self.files()]
            info = {"id": self.repo, "_id": "1", "sha": self.commit, "siblings": siblings, "tags": [], "downloads": 0}
            return self.send(request, 200, json.dumps(info | {"private": False}).encode(), body)
        return self.send(request, 404, b"{}", body, {"X-Error-Code": "RepoNotFound"})

    def send_file(self, request, name, body):
        path = self.folder / name
        if not path.is_file():
            return self.send(request, 404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit})
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": self.commit}
        return self.send(request, 200, data, body, headers)

    def send(self, request, status, data, body, headers=None):
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if body:
            request.wfile.write(data)
