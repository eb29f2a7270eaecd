"""Studies in a database that sweeps share: a real PostgreSQL, started by the test."""

from __future__ import annotations

import pytest
from search_helpers import tiny_space
from services.postgres import PASSWORD, Postgres

from vsae_search.errors import EnvironmentNotReady, UserInputError
from vsae_search.search.faults import told_plainly
from vsae_search.search.propose.database import unreachable
from vsae_search.search.propose.planning import open_studies
from vsae_search.search.store.studies_home import STORAGE_VARIABLE, StudiesHome, studies_home


@pytest.fixture(scope="module")
def database():
    server = Postgres()
    server.query("postgres", "CREATE DATABASE optuna")
    yield server
    server.remove()


@pytest.fixture
def password(monkeypatch):
    monkeypatch.setenv("PGPASSWORD", PASSWORD)


def asked(space, home: StudiesHome) -> list[str]:
    """Uids of two trials that the studies hand out."""
    studies = open_studies(space, home.address, sweep_id=home.sweep_id)
    try:
        return [studies.ask().uid for _ in range(2)]
    finally:
        studies.close()


def test_two_sweeps_of_one_name_share_a_database_and_no_study(database, password, tmp_path):
    """Of two folders, or of one that was deleted; the same folder finds its studies again."""
    space = tiny_space()
    homes = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        homes.append(studies_home(tmp_path / folder, database.address("optuna")))
    assert homes[0].sweep_id != homes[1].sweep_id
    first = asked(space, homes[0])
    assert asked(space, homes[1]) == first, "each begins with its first trials"
    again = studies_home(tmp_path / "a", database.address("optuna"))
    assert again == homes[0]
    assert not set(asked(space, again)) & set(first), "the next ones"
    assert PASSWORD not in (tmp_path / "a" / "studies.json").read_text()


def test_the_database_of_a_sweep_stays_the_same(database, password, tmp_path, monkeypatch):
    """Without its studies a sweep would begin again: another database is refused, in both directions."""
    shared = tmp_path / "shared"
    shared.mkdir()
    studies_home(shared, database.address("optuna", password="other"))
    studies_home(shared, database.address("optuna") + "?connect_timeout=3")
    with pytest.raises(UserInputError, match=f"are in postgresql://127.0.0.1:{database.port}/optuna"):
        studies_home(shared, None)
    monkeypatch.setenv(STORAGE_VARIABLE, database.address("postgres"))
    with pytest.raises(UserInputError, match="another database is given"):
        studies_home(shared, None)
    own = tmp_path / "own"
    own.mkdir()
    (own / "optuna.db").touch()
    with pytest.raises(UserInputError, match=r"own/optuna\.db"):
        studies_home(own, None)
    monkeypatch.delenv(STORAGE_VARIABLE)
    assert studies_home(own, None) == StudiesHome(f"sqlite:///{own / 'optuna.db'}")


def test_a_database_that_does_not_answer_is_told_with_what_to_do(database, password, tmp_path, monkeypatch):
    """A wrong password and a server that is gone end with exit code 3, not with a traceback."""
    home = studies_home(tmp_path, database.address("optuna"))
    assert unreachable(home.address) is None
    monkeypatch.setenv("PGPASSWORD", "wrong")
    assert "password authentication failed" in str(unreachable(home.address))
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    database.stop()
    try:
        assert "refused" in str(unreachable(home.address))
        with pytest.raises(EnvironmentNotReady, match="does not answer") as told, told_plainly(tmp_path):
            open_studies(tiny_space(), home.address, sweep_id=home.sweep_id)
    finally:
        database.start()
    assert PASSWORD not in str(told.value)
    assert asked(tiny_space(), home)
