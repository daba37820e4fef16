"""What S3 and the way to it answer, in our words: which error, what it means, what to do.

Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html. The text of the store's own message is
quoted only for codes not known here, and cut short; none of it holds a secret.
"""

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as NoConnectionError,
)

from storage.backends.s3_options import S3Options
from storage.errors import AlreadyExists, NotFound, OutOfSpace, Refused, StorageError, Unavailable

QUOTED_CHARACTERS = 200


class Unsupported(Refused):
    """The store does not know an operation or a header."""


class RangeError(Refused):
    """The range asked for lies past the object's end."""


_Fault = tuple[type[StorageError], str, str]

_KEYS = "Check ROWVAULT_S3__ACCESS_KEY_ID and ROWVAULT_S3__SECRET_ACCESS_KEY."
_RIGHTS = "Grant the key the rights that deploy/bucket-policy.json lists."
_REGION = "Set ROWVAULT_S3__REGION and ROWVAULT_S3__ENDPOINT_URL to those of the bucket."

_KNOWN: dict[str, _Fault] = {
    "NoSuchBucket": (
        Refused,
        "the bucket does not exist",
        "Create it, or correct ROWVAULT_S3__BUCKET and ROWVAULT_S3__ENDPOINT_URL.",
    ),
    "InvalidBucketName": (Refused, "no bucket can have that name", "Correct ROWVAULT_S3__BUCKET."),
    "InvalidAccessKeyId": (Refused, "the store does not know the access key", _KEYS),
    "SignatureDoesNotMatch": (Refused, "the secret key does not belong to the access key", _KEYS),
    "InvalidToken": (Refused, "the session token is not valid", "Get new keys with a new session token."),
    "ExpiredToken": (Refused, "the session token has expired", "Get new keys with a new session token."),
    "AccessDenied": (Refused, "access is denied", _RIGHTS),
    "AllAccessDisabled": (Refused, "access is denied", _RIGHTS),
    "RequestTimeTooSkewed": (Refused, "the clocks differ too much", "Set this machine's clock (NTP)."),
    "PermanentRedirect": (Refused, "the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": (Refused, "the bucket is in another region", _REGION),
    "IllegalLocationConstraintException": (Refused, "the bucket is in another region", _REGION),
    "QuotaExceeded": (OutOfSpace, "the quota is used up", "Enlarge the quota, or keep fewer backups."),
    "InsufficientStorage": (OutOfSpace, "the store is full", "Enlarge the store, or keep fewer backups."),
    "XMinioStorageFull": (OutOfSpace, "the store is full", "Enlarge the store, or keep fewer backups."),
    "BadDigest": (Unavailable, "the bytes arrived changed", "If this goes on, suspect the network."),
    "InvalidDigest": (Unavailable, "the bytes arrived changed", "If this goes on, suspect the network."),
    "XAmzContentSHA256Mismatch": (
        Unavailable,
        "the bytes arrived changed",
        "If this goes on, suspect the network.",
    ),
    "IncompleteBody": (Unavailable, "not all bytes arrived", "If this goes on, suspect the network."),
    "RequestTimeout": (Unavailable, "the bytes came too slowly", "If this goes on, suspect the network."),
    "OperationAborted": (Unavailable, "somebody else is writing the same object", ""),
    "ConditionalRequestConflict": (Unavailable, "somebody else is writing the same object", ""),
    "InternalError": (Unavailable, "the store has a fault of its own", "Look at the store."),
    "ServiceUnavailable": (Unavailable, "the store asks for fewer requests", ""),
    "SlowDown": (Unavailable, "the store asks for fewer requests", ""),
    "NotImplemented": (Unsupported, "the store does not know how", ""),
    "MethodNotAllowed": (Unsupported, "the store does not know how", ""),
}

_UNSUPPORTED = ("InvalidArgument", "InvalidRequest", "MissingContentMD5")
"""How some stores refuse a header or an operation that they do not know."""

_BY_STATUS: dict[int, _Fault] = {
    401: (Refused, "access is denied", _KEYS),
    403: (Refused, "access is denied", f"{_KEYS} {_RIGHTS}"),
    404: (NotFound, "it does not exist", ""),
    408: (Unavailable, "the request took too long", ""),
    412: (AlreadyExists, "it exists already", ""),
    416: (RangeError, "it is not that long", ""),
    429: (Unavailable, "the store asks for fewer requests", ""),
    501: (Unsupported, "the store does not know how", ""),
    507: (OutOfSpace, "the store is full", "Enlarge the store, or keep fewer backups."),
}

_BROKEN = (HTTPClientError, NoConnectionError, IncompleteReadError)
_TLS = "Set ROWVAULT_S3__CA_FILE to the authority's certificate, or correct ROWVAULT_S3__ENDPOINT_URL (http, https)."
_LOCK = "Make a bucket with object lock (it cannot be had later everywhere), or unset ROWVAULT_ARCHIVE__LOCK_MODE."
_AWAY = "Check ROWVAULT_S3__ENDPOINT_URL, the network, and whether the store is up."


def explain(error: BaseException, doing: str, options: S3Options, *, locking: bool = False) -> StorageError:
    """The storage error that says: cannot `doing` there, why, and what to do. `locking`: with a lock."""
    kind, reason, hint = _answered(error) if isinstance(error, ClientError) else _unanswered(error)
    if locking and kind is Unsupported:
        reason, hint = f"the bucket takes no object lock, it seems ({reason})", _LOCK
    return kind(f"cannot {doing} in {options.place}: {reason}", options.named(hint))


def _answered(error: ClientError) -> _Fault:
    """For a store that answered with an error."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if known := _KNOWN.get(code) or _BY_STATUS.get(status):
        return known
    kind = Unavailable if status >= 500 else Unsupported if code in _UNSUPPORTED else Refused
    said = str(error.response.get("Error", {}).get("Message", ""))[:QUOTED_CHARACTERS]
    return kind, f"the store answers {status} {code}: {said}", "Look at the store and its settings."


def _unanswered(error: BaseException) -> _Fault:
    """For a request that got no answer, or could not be made."""
    match error:
        case SSLError() | aiohttp.ClientSSLError():
            return Refused, "no trusted TLS connection comes about", _TLS
        case NoCredentialsError() | PartialCredentialsError():
            return Refused, "there are no keys, or half of them", _KEYS
        case CredentialRetrievalError():
            return Unavailable, "the instance's role gave no keys", "Look at the role, or set the keys."
        case ParamValidationError():
            return Refused, "the bucket's name or a key is not valid", "Correct ROWVAULT_S3__BUCKET."
        case EndpointConnectionError() | ConnectTimeoutError():
            return Unavailable, "the store cannot be reached", _AWAY
        case TimeoutError() | ReadTimeoutError():
            return Unavailable, "the store fell silent", _AWAY
        case BotoCoreError() if not isinstance(error, _BROKEN):
            return (
                Refused,
                f"{type(error).__name__}: {str(error)[:QUOTED_CHARACTERS]}",
                "Look at the AWS configuration.",
            )
        case _:
            return Unavailable, f"the connection broke ({type(error).__name__})", _AWAY
