"""Uploading to a model hub, against a small one on 127.0.0.1."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.export import Export, Exported
from vsae_search.export.push import check_repository, model_card, push_export
from vsae_search.search import SweepRecord

TOKEN = "hf_" + "w" * 34


class _Hub(BaseHTTPRequestHandler):
    """Makes repositories and takes commits of whole files; keeps what it was sent."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    visibility: list[object]
    commits: list[str]

    def log_message(self, format, *args):
        """Say nothing on stderr."""

    def do_HEAD(self):
        path = self.path.rpartition("/resolve/main/")[2]
        self.answer(200 if path in self.files else 404, b"")

    def do_GET(self):
        self.answer(404, b"{}")

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(403, b'{"error": "no"}')
        elif self.path == "/api/repos/create":
            self.visibility.append(json.loads(body).get("visibility"))
            wanted = json.loads(body)
            self.reply({"url": f"http://{self.headers['Host']}/{wanted['organization']}/{wanted['name']}"})
        elif "/preupload/" in self.path:
            wanted = json.loads(body)["files"]
            self.reply(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in wanted]}
            )
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            self.commits.append(lines[0]["value"]["summary"])
            for line in lines[1:]:
                assert line["key"] == "file"
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.reply({"commitUrl": f"http://{self.headers['Host']}/me/saes/commit/1", "commitOid": "1" * 40})
        elif self.path == "/api/validate-yaml":
            self.reply({"errors": [], "warnings": []})
        else:
            self.answer(404, b"{}")

    def reply(self, value):
        self.answer(200, json.dumps(value).encode())

    def answer(self, status, body):
        self.send_response(status)
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        if self.command == "HEAD" and status == 200:
            self.send_header("X-Repo-Commit", "1" * 40)
            self.send_header("ETag", '"1"')
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@pytest.fixture
def writable_hub(hub, monkeypatch):
    """A hub that takes commits; the client libraries talk to it."""
    from huggingface_hub import constants, hf_api

    handler = type("Handler", (_Hub,), {"files": {}, "visibility": [], "commits": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(hf_api.api, "endpoint", url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def done(tmp_path):
    """Two exported autoencoders."""
    sweep = SweepRecord(
        name="small",
        digest="ab",
        seed=0,
        status="completed",
        loss_name="delta-CE",
        loss_unit="nats per token",
        subject={"kind": "language_model", "model": "gpt2", "hook": "blocks.8.hook_resid_pre"},
    )
    exported = []
    for uid, l0 in (("relu-0000", 12.345), ("topk-0003", None)):
        folder = tmp_path / uid
        folder.mkdir()
        (folder / "cfg.json").write_text(json.dumps({"uid": uid}))
        (folder / "sae_weights.safetensors").write_bytes(uid.encode() * 100)
        files = ("cfg.json", "sae_weights.safetensors")
        exported.append(Exported(uid, uid[:4], "standard", "written", folder, files, False, l0, 0.25))
    return Export(sweep, "saelens", tmp_path, tuple(exported), ())


def test_every_file_arrives_in_one_commit_of_a_private_repository(writable_hub, done):
    assert push_export(done, "me/saes").endswith("/me/saes/commit/1")
    assert writable_hub.visibility == ["private"]
    assert writable_hub.commits == ["2 sparse autoencoders of the sweep small"]
    expected = {f"{one.uid}/{name}": (one.folder / name).read_bytes() for one in done.exported for name in one.files}
    assert writable_hub.files == {**expected, "README.md": model_card(done).encode()}


def test_a_readme_that_is_there_is_left_alone(writable_hub, done):
    writable_hub.files["README.md"] = b"mine"
    push_export(done, "me/saes")
    assert writable_hub.files["README.md"] == b"mine"
    assert "topk-0003/cfg.json" in writable_hub.files


def test_a_token_without_the_right_to_write_is_the_users_business(writable_hub, done, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "r" * 34)
    with pytest.raises(UserInputError, match=r"does not let you write to me/saes \(HTTP 403\)") as error:
        push_export(done, "me/saes")
    assert "HF_TOKEN" in error.value.hint
    assert not writable_hub.files


def test_a_hub_out_of_reach_is_told_plainly(hub, done):
    hub.close()
    with pytest.raises(EnvironmentNotReady, match="connection"):
        push_export(done, "me/saes")


@pytest.mark.parametrize("name", ["saes", "me/saes/more", "../x", "me/", "me/sa es"])
def test_what_cannot_be_a_repository_is_refused_at_once(name):
    with pytest.raises(UserInputError, match="OWNER/REPO"):
        check_repository(name)


def test_the_model_card_says_what_the_autoencoders_describe(done):
    card = model_card(done)
    assert card.startswith("---\nlibrary_name: saelens\n")
    assert "`blocks.8.hook_resid_pre` of `gpt2`" in card
    assert "| `relu-0000` | standard | 12.35 | 0.25 |" in card
    assert "| `topk-0003` | standard |  | 0.25 |" in card
