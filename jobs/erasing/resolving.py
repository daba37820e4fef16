"""Resolves whom a person means: every row and change in every backup, and whatever points to them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce

from jobs.erasing.counts import mentions, table_plan
from jobs.erasing.foreign_keys import Declared, ForeignKey, declared, foreign_keys
from jobs.erasing.holdings import Holdings
from jobs.erasing.neutral import substitutes
from jobs.erasing.search import Search
from jobs.erasing.subject import Children, Found, Predicate, sought, subjects, table_found
from jobs.errors import NotThere, UnsafeTarget
from jobs.postgres.connection import Connection
from jobs.postgres.copy_text import escaped, unescaped
from jobs.postgres.identifiers import BadName, TableName, readable
from jobs.postgres.live_rows import count_live, count_live_documents
from jobs.progress import OnProgress
from jobs.restoring.key import written
from jobs.scope import tables_by_name
from storage.manifest import Manifest

LEAST_MENTIONED = 4
"""Bytes of a value of which mentions elsewhere are counted: what is shorter is everywhere."""
_MOST_PLACES = 5
_NOT_EXACT = "name the rows by another column, such as their key: rowvault diff latest --keys tells it of deleted ones"


@dataclass(frozen=True, slots=True)
class Alive:
    """Rows of a table that are to be erased, and are still in the database."""

    table: TableName
    rows: int


class Resolving:
    """Resolves a predicate over everything that some places hold."""

    def __init__(
        self,
        connection: Connection,
        holdings: Holdings,
        predicate: Predicate,
        children: Children | None,
        on_progress: OnProgress,
    ) -> None:
        self._connection = connection
        self._holdings = holdings
        self._predicate = predicate
        self._children = children
        mentioned = escaped(predicate.value)
        self._search = Search(holdings, mentioned if len(mentioned) >= LEAST_MENTIONED else b"", on_progress)
        self._keys: list[tuple[ForeignKey, frozenset[int]]] = []
        self._declared: dict[TableName, Declared] = {}
        self._mentioned = predicate.value if len(mentioned) >= LEAST_MENTIONED else ""
        self.definitions = 0
        self.not_looked_through: tuple[str, ...] = ()

    async def begin(self) -> None:
        """Find out which tables are meant. Raises what `plan_erasure` raises."""
        for held in self._holdings.held:
            held.repository.require_identity(held.manifest)
        await self._read_definitions()
        for one in subjects(self._holdings.fulls, self._predicate):
            await self._begin_with(one)
            self._add(one)

    async def resolve(self) -> Search:
        """Find every row, and whatever points to one."""
        await self.begin()
        tables = ", ".join(map(str, self._search.found))
        await self._search.settle()
        while self._follow():
            await self._search.settle()
        if not any(self._counted(one) for one in self._search.found.values()):
            await self._search.look_at_the_rest()
            places = {f"{one.table}.{one.column}" for one in mentions(self._holdings, self._search.searched)}
            elsewhere = f"; the same bytes are in {', '.join(sorted(places)[:_MOST_PLACES])}" if places else ""
            raise NotThere(
                f"no backup has a row of {tables} where {self._said()} is that",
                f"nothing was erased; a value is compared as the database writes it{elsewhere}",
            )
        self._check_children()
        self.not_looked_through = await self._search.look_at_the_rest()
        return self._search

    def _said(self) -> str:
        path = f" at {'.'.join(self._predicate.path)}" if self._predicate.path else ""
        return readable(self._predicate.column) + path

    async def _read_definitions(self) -> None:
        """What each full backup declares: foreign keys with the oids of their parents, which may be called otherwise in
        the next, and what columns must be in any of them.
        """
        read: dict[str, tuple[ForeignKey, ...]] = {}
        known: set[tuple[ForeignKey, frozenset[int]]] = set()
        for held in self._holdings.held:
            manifest = held.manifest
            if not isinstance(manifest, Manifest):
                continue
            if (stored := manifest.dump.sql).sha256 not in read:
                sql = (await held.repository.file(stored)).decode(errors="replace")
                read[stored.sha256] = foreign_keys(sql)
                self._declare(declared(sql))
                if self._mentioned and self._mentioned in sql:
                    self.definitions += 1
            leaves = tables_by_name(manifest)
            for key in read[stored.sha256]:
                known.add((key, frozenset(one.oid for one in leaves.get(key.parent, ()))))
        self._keys = sorted(known, key=lambda one: one[0].name)

    def _declare(self, more: Mapping[TableName, Declared]) -> None:
        for name, one in more.items():
            self._declared[name] = self._declared.get(name, Declared()).and_also(one)

    async def _begin_with(self, found: Found) -> None:
        """Seek the value as it is written in the column's type, and in those that it had before."""
        predicate = self._predicate
        if predicate.path:
            sought(found, predicate, predicate.value)
            return
        *earlier, kind = found.types_of(predicate.column)
        sought(found, predicate, await self._written(kind))
        for kind in earlier:
            try:
                sought(found, predicate, await self._written(kind))
            except BadName:  # it is none of that type, or the type is no more
                sought(found, predicate, predicate.value)

    async def _written(self, kind: str) -> str:
        column, value = self._predicate.column, self._predicate.value
        return await written(self._connection, column, kind, value, "--where", _NOT_EXACT)

    def _add(self, found: Found) -> None:
        for key, parents in self._keys:
            if parents & found.oids:
                found.noted.add(key.references)
                if self._children == "anonymise":
                    found.how = "anonymise"
        if found.how == "anonymise":
            found.substitutes = substitutes(found, self._declaration(found), self._staying(found))
        self._search.found[found.table] = found

    def _staying(self, found: Found) -> frozenset[str]:
        """Columns that an anonymised row keeps: its primary keys, and those of foreign keys from it and to it."""
        stays = {column for table in found.tables for column in table.primary_key}
        stays |= {column for columns in found.noted for column in columns}
        for key, _ in self._keys:
            if key.child in found.named:
                stays |= set(key.columns)
        if self._predicate.column in stays and not self._predicate.path:
            raise UnsafeTarget(
                f"--children anonymise keeps keys, and {readable(self._predicate.column)} of {found.table} is of one",
                "choose --children cascade or null, or name the rows by another column",
            )
        return frozenset(stays)

    def _follow(self) -> bool:
        """Let tables that point to what was found know it; whether any of them learned something."""
        learned = 0
        for key, parents in self._keys:
            for parent in list(self._search.found.values()):
                if parent.is_sought and parent.how == "drop" and parents & parent.oids:
                    learned += self._point(key, parent)
        return learned > 0

    def _point(self, key: ForeignKey, parent: Found) -> int:
        values = tuple(parent.pointed_to.listed(key.references))
        if not values:
            return 0
        child = self._child(key)
        if child is None:
            return 0
        told_by = child.seeds if self._children == "cascade" else child.links
        if key.columns not in told_by:
            told_by.append(key.columns)
        before = child.values.version
        for value in values:
            child.values.add(key.columns, value)
        return child.values.version - before

    def _child(self, key: ForeignKey) -> Found | None:
        made = table_found(self._holdings.fulls, key.child)
        if not made.tables:
            return None
        for one in self._search.found.values():
            if one.oids & made.oids:
                return one
        self._add(made)
        return made

    def _counted(self, found: Found) -> int:
        plan = table_plan(found, self._holdings, self._search.searched)
        return sum(plan.rows.values()) + plan.changes

    def _check_children(self) -> None:
        """What points to erased rows must be dealt with in the way that a person chose."""
        for one in self._search.found.values():
            plan = table_plan(one, self._holdings, self._search.searched)
            if not plan.unlinked:
                continue
            if not self._children:
                raise UnsafeTarget(
                    f"{plan.unlinked} rows and changes of {one.table} in backups point to rows that would be erased",
                    "choose what becomes of them: --children cascade (erase them too), null (they lose the reference), "
                    "anonymise (the erased rows stay, with nothing but their keys)",
                )
            for columns in one.links:
                needed = [column for column in columns if column in self._declaration(one).not_null]
                if needed:
                    raise UnsafeTarget(
                        f"--children null: column {readable(needed[0])} of {one.table} may not be NULL",
                        "choose --children cascade or anonymise",
                    )

    def _declaration(self, found: Found) -> Declared:
        """What a table, and its partitions, declared together under all their names."""
        every = [self._declared[name] for name in found.named if name in self._declared]
        return reduce(Declared.and_also, every, Declared())

    async def alive(self) -> tuple[Alive, ...]:
        """Which of the rows found so far are still in the database."""
        sought_ones = [one for one in self._search.found.values() if one.is_sought]
        counted = [Alive(one.table, await self._alive(one)) for one in sought_ones]
        return tuple(one for one in counted if one.rows)

    async def _alive(self, found: Found) -> int:
        most = 0
        for table in self._live_names(found):
            for columns in (*found.seeds, *found.keys):
                values = [list(map(unescaped, one.split(b"\t"))) for one in found.values.listed(columns)]
                most = max(most, await count_live(self._connection, table, columns, values))
            if found.document is not None:
                place = found.document.column, found.document.path
                for text in found.values.listed(found.document.columns):
                    most = max(most, await count_live_documents(self._connection, table, *place, text.decode()))
        return most

    def _live_names(self, found: Found) -> list[TableName]:
        """What the table may be called now: as it was named, or as it, or its partition, was called last."""
        last = {table.oid: TableName(table.schema_name, table.name) for table in found.tables}
        return sorted({found.table, *last.values()})
