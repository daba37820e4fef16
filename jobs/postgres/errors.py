"""What can go wrong on the database side.

PostgresError
├── Unreachable           no answer, or not ready to answer
├── Rejected              the server refused the login
├── ConnectionLost        a session ended in the middle of work
├── MissingPrivilege      the role may not read, lock or see all of something
├── NoSuchTable           a chosen table or pattern matches nothing
├── Violation             rows break a constraint
├── Contended             somebody needs a lock that conflicts with ours: we give way, and may try again
├── TransactionPooling    a pooler hands each transaction to another server session
├── CannotCapture         server or role do not allow to capture changes from WAL
├── ToolTrouble           pg_dump or pg_restore is missing, too old, or failed
└── Held                  another process holds the job lock
"""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg


class PostgresError(Exception):
    """Something about the database failed; `message` says what and where, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Unreachable(PostgresError):
    """The server gave no answer, or is not ready to answer."""


class Rejected(PostgresError):
    """The server refused the login: password, role, database, or pg_hba.conf."""


class ConnectionLost(PostgresError):
    """A session ended in the middle of work."""


class MissingPrivilege(PostgresError):
    """The role may not read, lock, or see all rows of something."""


class NoSuchTable(PostgresError):
    """A chosen table or pattern matches nothing."""


class Violation(PostgresError):
    """Rows break a constraint: `constraint` is its name, empty for NOT NULL; `foreign` if it is a foreign key."""

    def __init__(self, message: str, hint: str, constraint: str, *, foreign: bool) -> None:
        super().__init__(message, hint)
        self.constraint = constraint
        self.foreign = foreign


class Contended(PostgresError):
    """Somebody needs a lock that conflicts with ours. We give way; another try may succeed."""


class TransactionPooling(PostgresError):
    """A transaction-mode pooler stands between: sessions, snapshots and locks do not hold through it."""


class CannotCapture(PostgresError):
    """The server, or the role, does not allow to capture changes from WAL; the hint says what would."""


class ToolTrouble(PostgresError):
    """pg_dump, pg_dumpall or pg_restore failed."""


class ToolMissing(ToolTrouble):
    """There is no pg_dump at hand that may read the server: none at all, or only older ones."""


class Held(PostgresError):
    """Another process holds the job lock; the message names it."""


_LOGIN = (
    asyncpg.InvalidPasswordError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)
_NOT_READY = (asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError)
_GONE = (asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)
# The last is what asyncpg stumbles over where a session ends between two of its own steps.
_NO_SESSION = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)
SESSION_FAULTS = (*_NO_SESSION, asyncpg.PostgresError)
"""Whatever asking a session can raise."""
_CONTENTION = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    # What was there a moment ago was dropped meanwhile.
    asyncpg.UndefinedTableError,
    asyncpg.InvalidSchemaNameError,
)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn asyncpg's and the socket's errors into ours, saying what was being done."""
    try:
        yield
    except _CONTENTION as error:
        raise Contended(f"{doing}: {_text(error)}", "run it again when no schema change is under way") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise MissingPrivilege(f"{doing}: {_text(error)}", _privilege_hint(_text(error))) from error
    except (*_GONE, *_NO_SESSION) as error:
        raise ConnectionLost(f"{doing}: the session ended: {_text(error)}", "see the server's log") from error
    except asyncpg.IntegrityConstraintViolationError as error:
        raise Violation(
            f"{doing}: {_text(error)}",
            "look for the rows that break it",
            error.constraint_name or "",
            foreign=isinstance(error, asyncpg.ForeignKeyViolationError),
        ) from error
    except asyncpg.OutOfMemoryError as error:
        raise PostgresError(
            f"{doing}: {_text(error)}", "with many tables, raise max_locks_per_transaction on the server"
        ) from error
    except asyncpg.CharacterNotInRepertoireError as error:
        raise PostgresError(
            f"{doing}: {_text(error)}",
            "a database of encoding SQL_ASCII may hold such bytes, and a backup is UTF-8: convert them there first, "
            "or leave the table out (ROWVAULT_EXCLUDE_TABLES)",
        ) from error
    except asyncpg.PostgresError as error:
        raise PostgresError(f"{doing}: {_text(error)}", "see the server's log for the statement") from error


@contextmanager
def translated_login(where: str, named_by: str) -> Iterator[None]:
    """The same for connecting; `where` names host, port and database, never the password, `named_by` what gave them."""
    try:
        yield
    except _LOGIN as error:
        raise Rejected(
            f"{where} refused the login: {_text(error)}", f"check user, password and database in {named_by}"
        ) from error
    except _NOT_READY as error:
        raise Unreachable(f"{where} is not ready: {_text(error)}", "try again in a moment") from error
    except (asyncpg.ClientConfigurationError, ValueError) as error:
        # Its own text may show the password.
        if "root certificate file" in str(error):
            raise Rejected(
                f"{named_by} asks to verify the server, but gives no certificate to do it by", _ca_hint(named_by)
            ) from error
        raise Rejected(f"{named_by} is not a usable connection string", _DSN_HINT) from error
    except ssl.SSLError as error:
        raise Unreachable(f"{where}: TLS failed: {_text(error)}", _ca_hint(named_by)) from error
    except TimeoutError as error:
        raise Unreachable(f"{where} did not answer in time", "check host, port and firewall") from error
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        raise Unreachable(f"{where} cannot be reached: {_text(error)}", "check host, port and firewall") from error


_DSN_HINT = "write it as postgresql://USER:PASSWORD@HOST:PORT/DATABASE, special characters as %XX"


def _ca_hint(named_by: str) -> str:
    wanted = "name the CA that signed the server's certificate, and use the name it is for"
    return f"let sslrootcert=FILE in {named_by} {wanted}"


def _text(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _privilege_hint(text: str) -> str:
    if "row-level security" in text:
        return (
            "the role would see only some rows; give it BYPASSRLS (ALTER ROLE … BYPASSRLS), "
            "or connect as the owner of a table that does not force row security"
        )
    return "GRANT SELECT on it to the role, or GRANT pg_read_all_data (rowvault doctor prints the SQL)"
