"""Whatever is done to it, the local backend shows what the backend in memory shows."""

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.backends.local import LocalBackend
from storage.backends.memory import MemoryBackend
from storage.backends.protocol import Backend
from storage.errors import StorageError
from tests.storage.helpers import MIB, fetch, folders, hash_of, listed, store, unfinished

# Folders and objects have different first letters, so that no object's name is the folder of another's.
FOLDERS = st.lists(st.sampled_from(["f", "f-", "f.f", "f0", "F", "f=2E~"]), max_size=3)
LEAVES = st.sampled_from(["o", "o-1", "o.1", "o0", "O", ".o", "o" * 200])
NAMES = st.builds(lambda folders, leaf: "/".join([*folders, leaf]), FOLDERS, LEAVES)
DATA = st.one_of(st.binary(max_size=20), st.just(bytes(MIB + 1)))
PREFIXES = st.one_of(st.just(""), NAMES, NAMES.map(lambda name: name[: len(name) // 2]))


class Step:
    """Something done to a backend, and what came of it."""

    def __init__(self, kind: str, name: str, data: bytes) -> None:
        self.kind, self.name, self.data = kind, name, data

    def __repr__(self) -> str:
        return f"{self.kind} {self.name} {len(self.data)}"

    async def apply(self, backend: Backend) -> object:
        try:
            return await getattr(self, f"_{self.kind}")(backend)
        except StorageError as error:
            return type(error)

    async def _store(self, backend: Backend) -> object:
        return await store(backend, self.name, self.data)

    async def _store_as_promised(self, backend: Backend) -> object:
        return await store(backend, self.name, self.data, sha256=hash_of(self.data))

    async def _store_otherwise_than_promised(self, backend: Backend) -> object:
        return await store(backend, self.name, self.data, sha256=hash_of(b"something else"))

    async def _abandon(self, backend: Backend) -> None:
        upload = await backend.begin(self.name)
        await upload.append(self.data)
        await upload.abort()

    async def _create(self, backend: Backend) -> None:
        await backend.create(self.name, self.data)

    async def _delete(self, backend: Backend) -> None:
        await backend.delete([self.name])

    async def _read(self, backend: Backend) -> object:
        return await fetch(backend, self.name, len(self.data))

    async def _stat(self, backend: Backend) -> object:
        return (await backend.stat(self.name)).size


KINDS = [name.removeprefix("_") for name in vars(Step) if name.startswith("_") and not name.endswith("__")]
STEPS = st.builds(Step, st.sampled_from(KINDS), NAMES, DATA)


async def shown(backend: Backend, prefix: str) -> object:
    """All that a reader can see."""
    objects = [(found.name, found.size) for found in await listed(backend, prefix)]
    folder = prefix[: prefix.rfind("/") + 1]
    return objects, await folders(backend, folder), await unfinished(backend)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=15), st.lists(PREFIXES, max_size=4))
async def test_local_and_memory_agree_whatever_is_done(steps: list[Step], prefixes: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        local, memory = LocalBackend(Path(folder)), MemoryBackend()
        for step in steps:
            assert await step.apply(local) == await step.apply(memory), step
        for prefix in ["", *prefixes]:
            assert await shown(local, prefix) == await shown(memory, prefix), prefix
