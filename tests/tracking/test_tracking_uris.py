from __future__ import annotations

from pathlib import Path

import pytest

from vsae_search.errors import UserInputError
from vsae_search.tracking import check_uri, default_uri, mask_secrets, web_address
from vsae_search.tracking.uris import mask_nested, sqlite_path


@pytest.mark.parametrize(
    "uri",
    [
        "http://mlflow:5000",
        "https://user:word@mlflow.example/path",
        "sqlite:///runs.db",
        "sqlite:////abs/runs.db",
        "postgresql://u:p@db:5432/mlflow",
        "postgresql+psycopg://u@db/mlflow",
    ],
)
def test_servers_and_databases_are_allowed(uri: str) -> None:
    assert check_uri(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "runs",
        "./mlruns",
        "file:///tmp/runs",
        "ftp://host/x",
        "gopher://169.254.169.254/",
        "databricks",
        "mysql://u:p@h/d",
        "http+unix://socket",
        "http://",
        "https:///path",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "postgresql:///d",
        "http://ho st",
        "http://host\n",
        "http://host\x00",
        "http://[::1",
        "javascript:alert(1)",
    ],
)
def test_everything_else_is_refused_with_a_hint(uri: str) -> None:
    with pytest.raises(UserInputError) as caught:
        check_uri(uri)
    assert "sqlite:///file" in caught.value.hint


def test_a_refusal_shows_no_password() -> None:
    with pytest.raises(UserInputError) as caught:
        check_uri("mysql://me:canary@host/d")
    assert "canary" not in str(caught.value)


def test_the_default_is_a_file_in_the_sweep_directory(tmp_path: Path) -> None:
    uri = default_uri(tmp_path)
    assert check_uri(uri) == uri
    assert Path(sqlite_path(uri)) == tmp_path.resolve() / "mlflow.db"


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("http://mlflow:5000/", "http://mlflow:5000"),
        ("https://me:word@mlflow.example/base/?x=1#y", "https://mlflow.example/base"),
        ("sqlite:///x.db", None),
        ("postgresql://h/d", None),
        ("javascript:alert(1)", None),
    ],
)
def test_only_servers_have_a_web_address(uri: str, address: str | None) -> None:
    assert web_address(uri) == address


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("at postgresql://me:word@db/x now", "at postgresql://me:***@db/x now"),
        ("http://:word@h http://a:b@c", "http://:***@h http://a:***@c"),
        ("http://me:p@ss@host/x", "http://me:***@host/x"),
        ("postgresql://h/d?user=me&password=word&x=1", "postgresql://h/d?user=me&password=***&x=1"),
        ("http://host:5000/a@b and 10:30@noon", "http://host:5000/a@b and 10:30@noon"),
    ],
)
def test_passwords_in_addresses_are_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


def test_secret_variables_are_masked_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary-one")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-one-and-more")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    value = {"a": ["x canary-one-and-more", 3, None], "b": {"c": ("canary-one",)}, "d": "abc"}
    assert mask_nested(value) == {"a": ["x ***", 3, None], "b": {"c": ["***"]}, "d": "abc"}
