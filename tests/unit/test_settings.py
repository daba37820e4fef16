"""Settings: what is read from where, and how mistakes are told."""

from collections.abc import Iterator
from datetime import UTC, timedelta
from pathlib import Path
from typing import Literal, get_args, get_origin
from zoneinfo import ZoneInfo

import pytest
from pydantic import BaseModel, SecretStr

from daemon.cron import parse_cron
from daemon.settings.errors import SettingsError
from daemon.settings.load import describe_settings, load_settings, read_keyring
from daemon.settings.model import Settings
from storage.age import Recipients
from storage.retention import Policy
from tests.keys import new_key

DSN = "postgresql://app:hunter2@db.example:5432/app"


def load(**values: str) -> Settings:
    """Settings of an environment in which only these are set, without the prefix."""
    return load_settings({f"ROWVAULT_{name}": value for name, value in values.items()}, dotenv=None)


def problems(**values: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(**values)
    return caught.value.problems


def test_what_a_setting_may_be_is_said_where_it_is_described() -> None:
    for name, choices in choices_of(Settings):
        described = next(one.meaning for one in describe_settings() if one.name == name)
        assert [choice for choice in choices if choice not in described] == [], name


def choices_of(model: type[BaseModel], above: str = "ROWVAULT_") -> Iterator[tuple[str, tuple[str, ...]]]:
    """Settings that are one of a few words, and these."""
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *get_args(field.annotation)]
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from choices_of(kind, f"{above}{name.upper()}__")
            elif get_origin(kind) is Literal:
                yield above + name.upper(), get_args(kind)


def test_nothing_set_gives_the_contract_defaults() -> None:
    settings = load()
    assert settings.database_url is None
    assert settings.tables == ()
    assert settings.copy_jobs == 2
    assert settings.compression_level == 1
    assert settings.rate_limit is None
    assert settings.lock_timeout == timedelta(seconds=5)
    assert settings.give_way_after == timedelta(seconds=3)
    assert settings.job_time_limit == timedelta(hours=6)
    assert settings.stop_grace_seconds == 8
    assert (settings.http.host, settings.http.port) == ("127.0.0.1", 8080)
    assert settings.zone is UTC
    assert settings.schedules == {
        "daily-full": parse_cron("0 2 * * *"),
        "hourly-incremental": parse_cron("0 * * * *"),
        "weekly-archive": parse_cron("0 3 * * 0"),
        "monthly-drill": parse_cron("0 4 1 * *"),
    }


def test_values_are_read_by_name_groups_included() -> None:
    settings = load(
        DATABASE_URL=DSN,
        LOCAL_PATH="/backups",
        S3__BUCKET="offsite",
        S3__PREFIX="/rowvault/",
        S3__ENDPOINT_URL="http://127.0.0.1:9000",
        S3__ACCESS_KEY_ID="key",
        S3__SECRET_ACCESS_KEY="very-secret",
        TIMEZONE="Europe/Berlin",
        RATE_LIMIT="50MB",
        OBJECTIVES__RPO="2h",
        LOG_FORMAT="json",
    )
    assert settings.require_database_url().get_secret_value() == DSN
    assert settings.local_path == Path("/backups")
    assert (settings.s3.bucket, settings.s3.prefix) == ("offsite", "rowvault")
    assert settings.s3.secret_access_key == SecretStr("very-secret")
    assert settings.zone == ZoneInfo("Europe/Berlin")
    assert settings.rate_limit == 50_000_000
    assert settings.objectives.rpo == timedelta(hours=2)
    assert settings.log_format == "json"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"ARCHIVE__PREFIX": "x"}, "ROWVAULT_ARCHIVE__BUCKET: must be set, since ROWVAULT_ARCHIVE__PREFIX is"),
        ({"ARCHIVE__LOCK_DAYS": "7"}, "ROWVAULT_ARCHIVE__LOCK_MODE: goes together with ROWVAULT_ARCHIVE__LOCK_DAYS"),
        (
            {"ARCHIVE__BUCKET": "b", "ARCHIVE__ACCESS_KEY_ID": "k"},
            "ROWVAULT_ARCHIVE__ACCESS_KEY_ID: goes together with ROWVAULT_ARCHIVE__SECRET_ACCESS_KEY",
        ),
        (
            {"ARCHIVE__EXPORTS": "csv,xml"},
            "ROWVAULT_ARCHIVE__EXPORTS: must be some of csv, json, parquet, sql, comma-separated",
        ),
        (
            {"S3__BUCKET": "b", "S3__STORAGE_CLASS": "GLACIER"},
            "ROWVAULT_S3__STORAGE_CLASS: must be a class that can be read at once, for backups are verified:"
            " such as GLACIER_IR",
        ),
        (
            {"S3__BUCKET": "b", "S3__SSE_KMS_KEY_ID": "k"},
            "ROWVAULT_S3__SSE_KMS_KEY_ID: goes together with ROWVAULT_S3__SSE=aws:kms",
        ),
    ],
)
def test_what_belongs_together_is_wanted_together(settings: dict[str, str], complaint: str) -> None:
    assert problems(**settings) == (complaint,)


def test_a_bucket_of_their_own_takes_the_archives_from_the_off_site_place() -> None:
    together = load(S3__BUCKET="b", ARCHIVE__EXPORTS="csv, parquet")
    assert together.s3_policy.keeps("archive")
    assert together.archive.exports == ("csv", "parquet")
    apart = load(S3__BUCKET="b", ARCHIVE__BUCKET="a", RETENTION__WEEKLY="9")
    assert not apart.s3_policy.keeps("archive")
    assert [apart.archive_policy.keeps(kind) for kind in ("full", "incremental", "archive")] == [False, False, True]
    assert apart.archive_policy.weekly == 9


def test_secrets_are_not_shown_by_the_settings_themselves() -> None:
    settings = load(DATABASE_URL=DSN, S3__BUCKET="b", S3__ACCESS_KEY_ID="AKIA1", S3__SECRET_ACCESS_KEY="very-secret")
    for secret in ("hunter2", "AKIA1", "very-secret"):
        assert secret not in repr(settings)


def test_table_patterns_are_split_at_commas_outside_double_quotes() -> None:
    assert load(TABLES='public.*, "Odd,Name"."a""b" ,app.user?').tables == (
        "public.*",
        '"Odd,Name"."a""b"',
        "app.user?",
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [('a,"b', "has a double quote that is not closed"), ("a,,b", "has an empty pattern between commas")],
)
def test_table_patterns_that_cannot_be_split_are_refused(text: str, complaint: str) -> None:
    assert problems(TABLES=text) == (f"ROWVAULT_TABLES: {complaint}",)


def test_an_unknown_name_stops_the_start_and_names_the_nearest() -> None:
    assert problems(TABELS="public.*") == ("ROWVAULT_TABELS: is not a setting; the nearest is ROWVAULT_TABLES",)
    assert problems(S3_BUCKET="x") == ("ROWVAULT_S3_BUCKET: is not a setting; the nearest is ROWVAULT_S3__BUCKET",)


def test_a_name_in_the_wrong_case_is_unknown_too() -> None:
    with pytest.raises(SettingsError, match=r"rowvault_tables: .* nearest is ROWVAULT_TABLES"):
        load_settings({"rowvault_tables": "x"}, dotenv=None)


def test_names_of_others_are_ignored() -> None:
    others = {
        "PATH": "/bin",
        "TABLES": "x",
        "ROWVAULT_PORT": "tcp://10.0.0.1:8080",
        "ROWVAULT_PORT_8080_TCP_ADDR": "10.0.0.1",
        "ROWVAULT_SERVICE_HOST": "10.0.0.1",
    }
    assert load_settings(others, dotenv=None) == load()


def test_retention_is_as_the_contract_says_and_the_bucket_follows_it_unless_told() -> None:
    assert load().policy == Policy(daily=7, weekly=4, monthly=12, incremental_days=7)
    settings = load(S3__BUCKET="b", RETENTION__DAILY="3", S3__RETENTION__DAILY="30", S3__RETENTION__MONTHLY="0")
    assert settings.policy.daily == 3
    bucket = settings.s3_policy
    assert (bucket.daily, bucket.weekly, bucket.monthly, bucket.incremental_days) == (30, 4, 0, 7)
    assert load(TIMEZONE="Europe/Berlin").policy.zone == ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize("text", ["-1", "1.5", "seven", "1000000", "7d"])
@pytest.mark.parametrize("name", ["RETENTION__DAILY", "RETENTION__INCREMENTAL_DAYS", "S3__RETENTION__WEEKLY"])
def test_how_many_backups_stay_is_a_whole_number(name: str, text: str) -> None:
    assert problems(**{name: text, "S3__BUCKET": "b"}) == (f"ROWVAULT_{name}: must be a whole number from 0 to 100000",)


def test_a_policy_for_a_bucket_wants_a_bucket() -> None:
    expected = "ROWVAULT_S3__BUCKET: must be set, since ROWVAULT_S3__RETENTION__DAILY is"
    assert problems(S3__RETENTION__DAILY="30") == (expected,)


def test_empty_means_unset() -> None:
    assert load(DATABASE_URL="", TABLES=" ", S3__BUCKET="", COPY_JOBS="", OBJECTIVES__RPO="") == load()


@pytest.mark.parametrize("text", ["", "off", "OFF", " "])
def test_an_empty_schedule_or_off_disables_its_job(text: str) -> None:
    schedules = load(SCHEDULE__FULL=text).schedules
    assert schedules["daily-full"] is None
    assert schedules["monthly-drill"] is not None


def test_any_setting_is_read_from_a_file_without_its_last_newline(tmp_path: Path) -> None:
    secret = tmp_path / "dsn"
    secret.write_text(DSN + "\n")
    jobs = tmp_path / "jobs"
    jobs.write_text("4")
    settings = load(DATABASE_URL_FILE=str(secret), COPY_JOBS_FILE=str(jobs))
    assert settings.require_database_url().get_secret_value() == DSN
    assert settings.copy_jobs == 4


def test_a_setting_whose_name_ends_in_file_is_not_mistaken_for_a_file_of_another() -> None:
    assert load(S3__BUCKET="b", S3__CA_FILE="/etc/ca.pem").s3.ca_file == Path("/etc/ca.pem")


def test_a_missing_file_is_an_error_naming_setting_and_path(tmp_path: Path) -> None:
    path = tmp_path / "absent"
    assert problems(DATABASE_URL_FILE=str(path)) == (
        f"ROWVAULT_DATABASE_URL_FILE: cannot read {path}: No such file or directory",
    )


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "binary"
    path.write_bytes(b"\xff\xfe\x00")
    assert problems(TABLES_FILE=str(path)) == (f"ROWVAULT_TABLES_FILE: cannot read {path}: it is not UTF-8 text",)


def test_a_value_and_a_file_for_it_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "dsn"
    path.write_text(DSN)
    [problem] = problems(DATABASE_URL=DSN, DATABASE_URL_FILE=str(path))
    assert problem.startswith("ROWVAULT_DATABASE_URL: is set twice, here and by ROWVAULT_DATABASE_URL_FILE")


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("COPY_JOBS", "hunter2", "must be a whole number from 1 to 64"),
        ("COPY_JOBS", "0", "must be a whole number from 1 to 64"),
        ("COMPRESSION_LEVEL", "20", "must be a whole number from 1 to 19"),
        ("HTTP__PORT", "65536", "must be a whole number from 0 to 65535"),
        ("LOCK_TIMEOUT", "hunter2", "must be a whole number above zero and a unit, s, m, h or d"),
        ("RATE_LIMIT", "hunter2", "must be a whole number above zero and a unit, such as 500kB"),
        ("TIMEZONE", "Mars/Hunter2", "must be a time zone this machine knows"),
        ("TIMEZONE", "../../etc/passwd", "must be a time zone this machine knows"),
        ("SCHEDULE__FULL", "0 2 * * hunter2", "day of week: must be from 0 to 7"),
        ("LOG_LEVEL", "hunter2", "must be 'debug', 'info', 'warning' or 'error'"),
        ("ENCRYPTION__RECIPIENTS", "hunter2", "holds no age recipient as number 1: one begins with age1"),
        (
            "ENCRYPTION__RECIPIENTS",
            "age-secret-key-1hunter2",
            "holds a secret identity as number 1: give its public key",
        ),
        ("LOG_FORMAT", "hunter2", "must be 'json' or 'console'"),
        ("DATABASE_URL", "mysql://app:hunter2@db/app", "must begin with postgresql:// or postgres://"),
        ("DATABASE_URL", "host=db password=hunter2", "must begin with postgresql:// or postgres://"),
        ("DATABASE_URL", "postgresql://app:hunter2#x@db/app", "cannot be read: in its user and password"),
        ("DATABASE_URL", "postgresql://app:hunter2/x@db/app", "cannot be read: in its user and password"),
        ("DATABASE_URL", "postgresql://app:[hunter2@db/app", "cannot be read: in its user and password"),
    ],
)
def test_a_bad_value_gives_one_line_that_names_the_setting_and_not_the_value(
    name: str, value: str, complaint: str
) -> None:
    [problem] = problems(**{name: value})
    assert problem.startswith(f"ROWVAULT_{name}: {complaint}")
    assert "\n" not in problem
    assert "hunter2" not in problem.lower()


@pytest.mark.parametrize("url", ["s3.example.org", "ftp://s3.example.org", "http://", "http://h:99999999"])
def test_an_endpoint_must_be_a_web_address(url: str) -> None:
    [problem] = problems(S3__BUCKET="b", S3__ENDPOINT_URL=url)
    assert problem.startswith("ROWVAULT_S3__ENDPOINT_URL: must be an address such as")


def test_an_endpoint_must_not_hold_credentials() -> None:
    [problem] = problems(S3__BUCKET="b", S3__ENDPOINT_URL="http://key:hunter2@127.0.0.1:9000")
    assert problem.startswith("ROWVAULT_S3__ENDPOINT_URL: must not hold credentials")
    assert "hunter2" not in problem


def test_several_hosts_in_the_database_url_are_understood() -> None:
    url = "postgresql://app:hunter2@one:5432,two:5433/app"
    assert load(DATABASE_URL=url).require_database_url().get_secret_value() == url


def test_recipients_are_several_public_keys() -> None:
    keys = (new_key().public, new_key().public)
    assert load(ENCRYPTION__RECIPIENTS=", ".join(keys)).encryption.recipients == Recipients(keys)


def test_an_identity_file_that_cannot_be_used_is_named_and_what_is_in_it_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    with pytest.raises(SettingsError, match=f"ROWVAULT_DRILL__IDENTITY_FILE: cannot read {path}: No such file"):
        read_keyring(path, "ROWVAULT_DRILL__IDENTITY_FILE")
    path.write_text("# mine\nhunter2\n")
    with pytest.raises(SettingsError, match=f"{path}: line 2 is not an age identity") as raised:
        read_keyring(path, "ROWVAULT_DRILL__IDENTITY_FILE")
    assert "hunter2" not in raised.value.message


def test_every_problem_is_listed() -> None:
    assert len(problems(TABELS="x", COPY_JOBS="0", TIMEZONE="Mars", ENCRYPTION__RECIPIENTS="age1")) == 4


def test_s3_settings_without_a_bucket_are_an_error() -> None:
    assert problems(S3__REGION="eu-central-1") == ("ROWVAULT_S3__BUCKET: must be set, since ROWVAULT_S3__REGION is",)


def test_half_of_the_s3_credentials_is_an_error() -> None:
    [problem] = problems(S3__BUCKET="b", S3__ACCESS_KEY_ID="key")
    assert problem == "ROWVAULT_S3__ACCESS_KEY_ID: goes together with ROWVAULT_S3__SECRET_ACCESS_KEY"


def test_a_place_is_only_required_where_it_is_needed() -> None:
    load(LOCAL_PATH="/backups").require_places()
    load(S3__BUCKET="b").require_places()
    with pytest.raises(SettingsError, match=r"ROWVAULT_LOCAL_PATH or ROWVAULT_S3__BUCKET: at least one"):
        load().require_places()


def test_the_database_is_only_required_where_it_is_needed() -> None:
    with pytest.raises(SettingsError, match=r"^ROWVAULT_DATABASE_URL: must be set"):
        load().require_database_url()


def test_a_dotenv_file_is_read_below_the_environment(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "# a comment\nOTHER=1\nROWVAULT_COPY_JOBS=3\nexport ROWVAULT_TABLES='a,b'\nROWVAULT_TIMEZONE=UTC\n"
    )
    settings = load_settings({"ROWVAULT_COPY_JOBS": "5"}, dotenv)
    assert settings.copy_jobs == 5
    assert settings.tables == ("a", "b")


def test_values_in_a_dotenv_file_are_taken_literally(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("ROWVAULT_DATABASE_URL=postgresql://app:a${HOME}b@db/app\n")
    url = load_settings({}, dotenv).require_database_url()
    assert url.get_secret_value() == "postgresql://app:a${HOME}b@db/app"


def test_an_unknown_name_in_a_dotenv_file_stops_the_start(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("ROWVAULT_SHEDULE__FULL=@daily\n")
    with pytest.raises(SettingsError, match="nearest is ROWVAULT_SCHEDULE__FULL"):
        load_settings({}, dotenv)


def test_a_dotenv_line_that_cannot_be_read_is_an_error_without_its_text(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"ROWVAULT_COPY_JOBS=3\n\nROWVAULT_DATABASE_URL {DSN}\n")
    with pytest.raises(SettingsError) as caught:
        load_settings({}, dotenv)
    assert caught.value.problems == (f"{dotenv}: line 3 is not of the form NAME=value",)


def test_no_dotenv_file_is_fine(tmp_path: Path) -> None:
    assert load_settings({}, tmp_path / ".env") == load()


def test_a_dotenv_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        load_settings({}, tmp_path)


def test_without_arguments_the_process_environment_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROWVAULT_COPY_JOBS", "7")
    assert load_settings().copy_jobs == 7


def test_every_setting_is_described_with_its_default() -> None:
    described = {setting.name: setting for setting in describe_settings()}
    assert described["ROWVAULT_SCHEDULE__FULL"].default == "0 2 * * *"
    assert described["ROWVAULT_JOB_TIME_LIMIT"].default == "6h"
    assert described["ROWVAULT_DATABASE_URL"].default == ""
    assert described["ROWVAULT_S3__BUCKET"].default == ""
    assert all(setting.meaning.endswith(".") for setting in described.values())


def test_every_described_default_can_be_given_as_a_value() -> None:
    defaults = {setting.name: setting.default for setting in describe_settings() if "S3__" not in setting.name}
    assert load_settings(defaults, dotenv=None) == load()
