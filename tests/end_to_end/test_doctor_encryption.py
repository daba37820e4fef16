"""What `doctor` finds about encryption: nobody is told too late that a backup cannot be opened."""

from pathlib import Path

import pytest

from jobs.checks.encryption import Encrypting
from jobs.copying.table_copy import CopyOptions
from jobs.doctor import examine
from jobs.postgres.catalogue import Selection
from storage.age import Recipients
from storage.backends.memory import MemoryBackend
from storage.manifest import Encryption
from storage.repository import Repository
from tests.examining import found, look, only
from tests.faults.commands import DONE, FAILED, USAGE, document, refuse, settings_of, succeed
from tests.following import following
from tests.keys import Key, keyring_of, new_key
from tests.places import Planter
from tests.programs import rowvault
from tests.round_trip import back_up
from tests.servers import Database

KEY, NEW = new_key(), new_key()


@pytest.fixture
async def database(database: Database) -> Database:
    await database.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)")
    return database


@pytest.fixture
def place() -> Repository:
    return Repository("local", MemoryBackend(), KEY.keyring)


async def backed_up(database: Database, place: Repository, recipients: Recipients | None) -> str:
    return (await back_up(database, copying=CopyOptions(recipients=recipients), repository=place)).result.id


async def test_it_says_that_backups_are_not_encrypted_and_how_they_would_be(
    database: Database, place: Repository
) -> None:
    await backed_up(database, place, None)
    report = await look(database, place)
    assert only(report, "encryption").state == "ok"
    assert "ROWVAULT_ENCRYPTION__RECIPIENTS" in only(report, "encryption").message
    assert not found(report, "escrow")


async def test_without_an_identity_it_says_what_needs_one_and_what_was_not_tried(
    database: Database, place: Repository
) -> None:
    backup_id = await backed_up(database, place, KEY.recipients)
    report = await look(database, place, encrypting=Encrypting(KEY.recipients))
    assert "no identity is at hand: restores, drills" in only(report, "encryption").message
    assert only(report, "escrow").state == "ok"
    assert f"opens {backup_id} was not tried" in only(report, "escrow").message


async def test_the_identity_kept_elsewhere_is_tried_on_the_newest_backup(database: Database, place: Repository) -> None:
    backup_id = await backed_up(database, place, KEY.recipients)
    report = await look(database, place, encrypting=Encrypting(KEY.recipients, KEY.keyring))
    assert only(report, "escrow").message == f"the identity at hand opens {backup_id}"
    report = await look(database, place, encrypting=Encrypting(KEY.recipients, NEW.keyring))
    assert only(report, "escrow").state == "problem"
    assert f"is encrypted for {KEY.public}" in only(report, "escrow").message
    assert only(report, "encryption").state == "warning"


async def test_it_is_tried_where_the_database_is_gone(database: Database, place: Repository) -> None:
    backup_id = await backed_up(database, place, KEY.recipients)
    report = await examine(None, Selection(), [place], encrypting=Encrypting(None, KEY.keyring))
    assert only(report, "escrow").message == f"the identity at hand opens {backup_id}"
    assert only(report, "connection").state == "problem"


async def test_an_identity_that_the_manifest_names_and_the_objects_do_not_know_is_a_problem(
    database: Database, place: Repository
) -> None:
    taken = await back_up(database, copying=CopyOptions(recipients=NEW.recipients), repository=place)
    forged = taken.manifest.model_copy(update={"encryption": Encryption(recipients=(KEY.public,)), "label": "forged"})
    await Planter(place.backend).delete(str(taken.manifest.name()))
    await place.commit(forged)
    report = await look(database, place, encrypting=Encrypting(KEY.recipients, KEY.keyring))
    assert only(report, "escrow").state == "problem"


async def test_the_backup_that_the_newest_builds_on_is_tried_too(database: Database, place: Repository) -> None:
    await backed_up(database, place, KEY.recipients)
    follower = following(database, place)
    await follower.begin()
    taken = await back_up(database, copying=CopyOptions(recipients=KEY.recipients), repository=place)
    assert taken.manifest.capture is not None
    window = await follower.change("INSERT INTO t VALUES (2)")
    assert window.base == taken.manifest.id
    report = await look(database, place, encrypting=Encrypting(None, NEW.keyring))
    assert only(report, "escrow").state == "problem"
    assert taken.manifest.id in only(report, "escrow").message


@pytest.mark.parametrize(
    ("made", "meant"), [(KEY, NEW), (KEY, None), (None, KEY)], ids=["others", "plain now", "plain before"]
)
async def test_a_newest_backup_for_others_than_the_settings_say_is_a_warning(
    database: Database, place: Repository, made: Key | None, meant: Key | None
) -> None:
    await backed_up(database, place, made.recipients if made else None)
    wanted = Encrypting(meant.recipients if meant else None, keyring_of(KEY, NEW))
    report = await look(database, place, encrypting=wanted)
    warnings = [one for one in found(report, "encryption") if one.state == "warning"]
    assert [one.place for one in warnings] == ["local"]
    assert "keep their identities" in warnings[0].hint


async def test_an_identity_file_that_others_may_read_is_a_warning(
    database: Database, place: Repository, tmp_path: Path
) -> None:
    path = tmp_path / "identity"
    path.write_text(KEY.identity)
    path.chmod(0o640)
    encrypting = Encrypting(KEY.recipients, KEY.keyring, (path,))
    assert only(await look(database, place, encrypting=encrypting), "identity file").state == "warning"
    path.chmod(0o600)
    assert only(await look(database, place, encrypting=encrypting), "identity file").state == "ok"


async def test_the_command_tries_an_identity_from_a_file(database: Database, tmp_path: Path) -> None:
    settings = settings_of(
        database, tmp_path / "backups", ENCRYPTION__RECIPIENTS=KEY.public, SCHEDULE__INCREMENTAL="off"
    )
    await succeed("backup", settings=settings)
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    for path, key in ((right, KEY), (wrong, NEW)):
        path.write_text(key.identity)
        path.chmod(0o600)
    for path, code, state in ((right, DONE, "ok"), (wrong, FAILED, "problem")):
        answer = await rowvault("doctor", "--identity", str(path), "--json", env=settings)
        assert answer.returncode == code
        assert ("escrow", state) in {(one["check"], one["state"]) for one in document(answer)["findings"]}
    error = await refuse("doctor", "--identity", str(tmp_path / "absent"), settings=settings, code=USAGE)
    assert error["message"].startswith("--identity: cannot read")
