"""A manifest as a file: JSON that carries its own hash.

Its last two lines are the hash and the closing brace, so that anybody can check it: `head -n -2 MANIFEST | sha256sum`.
"""

import hashlib
import json
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from storage.errors import Corrupt, Misplaced
from storage.increments import AnyBackup, Difference, Increment
from storage.manifest import Manifest


def dump_manifest(manifest: AnyBackup) -> bytes:
    """The manifest as it is stored."""
    text = manifest.model_dump_json(by_alias=True, indent=1)
    body = text.removesuffix("\n}").encode() + b",\n"
    return body + f' "sha256": "{hashlib.sha256(body).hexdigest()}"\n}}\n'.encode()


_Incremental = Annotated[Increment | Difference, Field(discriminator="method")]
_ANY: TypeAdapter[AnyBackup] = TypeAdapter(Annotated[Manifest | _Incremental, Field(discriminator="kind")])


def load_manifest(name: str, data: bytes) -> AnyBackup:
    """Read a stored manifest; raises `Corrupt` if it was altered, `Misplaced` if it is another than its name says."""
    hint = "check the other place with: rowvault verify --all"
    body, _, trailer = data.removesuffix(b"\n}\n").rpartition(b"\n")
    body += b"\n"
    if trailer != f' "sha256": "{hashlib.sha256(body).hexdigest()}"'.encode():
        raise Corrupt(f"manifest {name} was altered: its own hash does not match", hint)
    try:
        fields = json.loads(data)
        del fields["sha256"]
        manifest = _ANY.validate_json(json.dumps(fields))
    except (ValueError, ValidationError, TypeError, KeyError, RecursionError) as error:
        raise Corrupt(f"manifest {name} cannot be read by this version: {_first_line(error)}", hint) from error
    if str(manifest.name()) != name:
        raise Misplaced(f"manifest {name} belongs to another backup: {manifest.id}", hint)
    return manifest


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
