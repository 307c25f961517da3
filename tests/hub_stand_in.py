"""A stand-in for the Hugging Face Hub on this machine: enough of its HTTP interface to push and to load back."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HubStandIn(ThreadingHTTPServer):
    """
    Keeps repositories in memory: `repos["models/user/name"]` maps paths to contents. `commits` lists (repository,
    paths) in order, `unknown` the requests that were not understood, which a test should find empty.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos, self.commits, self.large_files, self.unknown = {}, [], {}, []
        self.endpoint = f"http://127.0.0.1:{self.server_port}"


@contextlib.contextmanager
def hub_stand_in():
    """A running stand-in; `endpoint` is its address."""
    server = HubStandIn()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, content=b"", status=200, **headers):
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def missing(self, code):
        self.reply({"error": code}, 404, X_Error_Code=code)

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0].replace("%2F", "/")
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method in (self.command, "*"):
                return action(self, body, **match.groupdict())
        self.server.unknown.append(f"{self.command} {self.path}")
        return self.missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def create(self, body):
        wanted = json.loads(body)
        name = wanted["name"] if not wanted.get("organization") else f"{wanted['organization']}/{wanted['name']}"
        self.server.repos.setdefault(f"{wanted.get('type') or 'model'}s/{name}", {})
        self.reply({"url": f"{self.server.endpoint}/{name}", "name": name, "id": name})

    def preupload(self, body, repo):
        files = []
        for file in json.loads(body)["files"]:
            large = file["path"].endswith((".safetensors", ".parquet", ".bin", "tokenizer.json"))
            mode = "lfs" if large else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        self.reply({"files": files})

    def lfs_batch(self, body, repo):
        wanted = json.loads(body)["objects"]
        href = f"{self.server.endpoint}/lfs"
        objects = [
            {"oid": o["oid"], "size": o["size"], "actions": {"upload": {"href": f"{href}/{o['oid']}"}}} for o in wanted
        ]
        self.reply({"transfer": "basic", "objects": objects}, Content_Type="application/vnd.git-lfs+json")

    def lfs_put(self, body, oid):
        assert hashlib.sha256(body).hexdigest() == oid
        self.server.large_files[oid] = body
        self.reply()

    def commit(self, body, repo):
        files = self.server.repos[repo]
        paths = []
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                continue
            paths.append(value["path"])
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.large_files[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        self.server.commits.append((repo, paths))
        url = f"{self.server.endpoint}/{repo.removeprefix('models/')}/commit/{self.revision(repo)}"
        self.reply({"success": True, "commitUrl": url, "commitOid": self.revision(repo)})

    def revision(self, repo):
        state = {path: hashlib.sha256(content).hexdigest() for path, content in self.server.repos[repo].items()}
        return hashlib.sha1(json.dumps(state, sort_keys=True).encode()).hexdigest()

    def info(self, body, repo, revision=None):
        if repo not in self.server.repos:
            return self.missing("RepoNotFound")
        siblings = [{"rfilename": path} for path in self.server.repos[repo]]
        return self.reply({"id": repo.split("/", 1)[1], "sha": self.revision(repo), "siblings": siblings, "tags": []})

    def tree(self, body, repo, revision, folder=None):
        if repo not in self.server.repos:
            return self.missing("RepoNotFound")
        files = self.server.repos[repo].items()
        listed = [
            {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
            for path, content in files
            if path.startswith(f"{folder}/" if folder else "")
        ]
        return self.missing("EntryNotFound") if folder and not listed else self.reply(listed)

    def resolve(self, body, kind, name, revision, path):
        repo = f"{'datasets/' if kind else 'models/'}{name}"
        if repo not in self.server.repos:
            return self.missing("RepoNotFound")
        if path not in self.server.repos[repo]:
            return self.missing("EntryNotFound")
        content = self.server.repos[repo][path]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        return self.reply(content, X_Repo_Commit=self.revision(repo), ETag=etag)


_REPO = r"(?P<repo>(?:models|datasets)/[^/]+/[^/]+)"
_ROUTES = [
    ("POST", r"/api/repos/create", _Handler.create),
    ("POST", r"/api/validate-yaml", lambda self, body: self.reply({"errors": [], "warnings": []})),
    ("POST", rf"/api/{_REPO}/preupload/.+", _Handler.preupload),
    ("POST", r"/(?P<repo>.+)\.git/info/lfs/objects/batch", _Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", _Handler.lfs_put),
    ("POST", rf"/api/{_REPO}/commit/.+", _Handler.commit),
    ("GET", rf"/api/{_REPO}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", _Handler.tree),
    ("GET", rf"/api/{_REPO}(?:/revision/(?P<revision>.+))?", _Handler.info),
    ("*", r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", _Handler.resolve),
]
