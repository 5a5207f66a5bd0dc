"""Images without a container engine: layers, archives and folders made here, and a registry to pull them from."""

import base64
import functools
import gzip
import hashlib
import http.server
import io
import json
import pathlib
import platform
import subprocess
import tarfile
import tempfile
import threading
import urllib.parse

import pytest

GUEST = pathlib.Path(__file__).parent / "images" / "guest.c"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
OCI = "application/vnd.oci.image"


@functools.cache
def guest(source=GUEST):
    """The program of test images: linked so that it needs nothing of the image."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "guest"
        done = subprocess.run(
            ["cc", "-static", "-O1", "-D_GNU_SOURCE", "-o", out, source], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            pytest.skip(f"the C compiler makes no static program here: {done.stderr[-300:]}")
        return out.read_bytes()


def digest(blob):
    return "sha256:" + hashlib.sha256(blob).hexdigest()


def entry(name, content=b"", mode=0o644, kind=tarfile.REGTYPE, link="", **more):
    """An entry of a layer: whatever is asked for, also what no tool would make."""
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.linkname, info.size = mode, kind, link, len(content)
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def folder(name, mode=0o755):
    return entry(name, mode=mode, kind=tarfile.DIRTYPE)


def symlink(name, to):
    return entry(name, kind=tarfile.SYMTYPE, link=to, mode=0o777)


def hardlink(name, to):
    return entry(name, kind=tarfile.LNKTYPE, link=to)


def layer(*entries):
    """An uncompressed layer."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for info, content in entries:
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def base(*more):
    """A layer with the guest at /bin/guest."""
    return layer(folder("bin"), entry("bin/guest", guest(), 0o755), *more)


def packed(one):
    """Compressed, always to the same bytes."""
    return gzip.compress(one, mtime=0)


class Image:
    """Layers with what is said about them; `pack` is what the layers are compressed by."""

    def __init__(self, *layers, pack=packed, **config):
        self.plain = list(layers)
        self.blobs = [pack(one) for one in layers]
        self.media_type = f"{OCI}.layer.v1.tar" + ("+gzip" if pack is packed else "")
        config.setdefault("Entrypoint", ["/bin/guest"])
        self.config = {
            "architecture": ARCHITECTURE, "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(one) for one in self.plain]},
        }

    @property
    def config_bytes(self):
        return json.dumps(self.config).encode()

    @property
    def manifest(self):
        def described(kind, blob):
            return {"mediaType": kind, "digest": digest(blob), "size": len(blob)}

        return json.dumps({
            "schemaVersion": 2, "mediaType": f"{OCI}.manifest.v1+json",
            "config": described(f"{OCI}.config.v1+json", self.config_bytes),
            "layers": [described(self.media_type, blob) for blob in self.blobs],
        }).encode()

    @property
    def digest(self):
        return digest(self.manifest)

    def save(self, path):
        """Writes what `docker save` writes."""
        config = hashlib.sha256(self.config_bytes).hexdigest() + ".json"
        names = [f"{index}/layer.tar" for index in range(len(self.plain))]
        manifest = [{"Config": config, "RepoTags": ["x:y"], "Layers": names}]
        files = {config: self.config_bytes, "manifest.json": json.dumps(manifest).encode()} | dict(zip(names, self.plain))
        with tarfile.open(path, "w") as archive:
            for name, content in files.items():
                archive.addfile(entry(name, content)[0], io.BytesIO(content))
        return path

    def layout(self, path):
        """Writes a folder of the OCI layout."""
        blobs = path / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for blob in [self.manifest, self.config_bytes, *self.blobs]:
            (blobs / hashlib.sha256(blob).hexdigest()).write_bytes(blob)
        listed = {"mediaType": f"{OCI}.manifest.v1+json", "digest": self.digest, "size": len(self.manifest)}
        (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [listed]}))
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        return path


class Registry:
    """A registry on loopback that wants tokens, which it gives for one user's password."""

    USER, PASSWORD = "robot", "p:ass"

    def __init__(self):
        self.blobs, self.manifests, self.asked, self.token = {}, {}, [], "token-1"
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def answer(self, status, body=b"", **headers):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                outer.asked.append(self.path)
                url = urllib.parse.urlparse(self.path)
                if url.path == "/token":
                    return outer.give_token(self, urllib.parse.parse_qs(url.query))
                if self.headers.get("Authorization") != f"Bearer {outer.token}":
                    realm = f'Bearer realm="http://{outer.host}/token",service="tests",scope="x"'
                    return self.answer(401, WWW_Authenticate=realm)
                kind, name = url.path.split("/")[-2:]
                if kind == "manifests" and name in outer.manifests:
                    return self.answer(200, outer.manifests[name], Content_Type=f"{OCI}.manifest.v1+json")
                if kind == "blobs" and name in outer.blobs:
                    # As many registries do: the blobs are elsewhere.
                    return self.answer(307, Location=f"/elsewhere/away/{name}")
                if kind == "away" and name in outer.blobs:
                    return self.answer(200, outer.blobs[name])
                return self.answer(404, b"{}")

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def give_token(self, handler, query):
        wanted = base64.b64encode(f"{self.USER}:{self.PASSWORD}".encode()).decode()
        if handler.headers.get("Authorization") != f"Basic {wanted}":
            return handler.answer(401)
        assert query["service"] == ["tests"] and query["scope"][0].endswith(":pull"), query
        return handler.answer(200, json.dumps({"token": self.token}).encode())

    def put(self, image, tag, repository="team/app"):
        """Holds an image; answers its URI."""
        self.manifests[tag] = self.manifests[image.digest] = image.manifest
        for blob in [image.config_bytes, *image.blobs]:
            self.blobs[digest(blob)] = blob
        return f"{self.host}/{repository}:{tag}"

    def layers_asked(self, image):
        """How often layers of an image were read."""
        wanted = {digest(blob) for blob in image.blobs}
        return sum(path.startswith("/elsewhere/") and path.split("/")[-1] in wanted for path in self.asked)

    def config_file(self, path):
        """The operator's file with the password."""
        text = base64.b64encode(f"{self.USER}:{self.PASSWORD}".encode()).decode()
        path.write_text(json.dumps({"auths": {self.host: {"auth": text}}}))
        return path

    def close(self):
        self.server.shutdown()
        self.server.server_close()
