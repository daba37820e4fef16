"""The comparator that other tests rely on: it finds every difference that is planted, and nothing else."""

import pytest

from tests.compare import differences
from tests.conftest import CreateDatabase
from tests.servers import Database

SAMPLE = """
    DO $$ BEGIN
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'compare_reader') THEN CREATE ROLE compare_reader; END IF;
    END $$;
    CREATE TABLE t (
        id int PRIMARY KEY, name text DEFAULT 'x', amount float8, at timestamptz DEFAULT now(),
        CONSTRAINT small CHECK (id < 1000)
    );
    INSERT INTO t VALUES (1, 'one', 0.1, '2026-01-01Z'), (2, '', 0.2, 'infinity'), (3, NULL, 'NaN', NULL);
    COMMENT ON COLUMN t.name IS 'what it is called';
    CREATE INDEX t_by_name ON t (name);
    CREATE TABLE twins (n int);
    INSERT INTO twins VALUES (1), (1), (2);
    CREATE TABLE bare ();
    INSERT INTO bare DEFAULT VALUES;
    CREATE TABLE long (words text);
    INSERT INTO long VALUES (repeat('word ', 100000));
    CREATE SEQUENCE s INCREMENT 5;
    SELECT nextval('s');
    CREATE SEQUENCE untouched;
    ALTER TABLE t ENABLE ROW LEVEL SECURITY;
    CREATE POLICY mine ON t USING (id < 3);
    GRANT SELECT, INSERT ON t TO compare_reader;
    CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
    CREATE TRIGGER watch BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f();
    CREATE VIEW v AS SELECT id FROM t;
    CREATE MATERIALIZED VIEW m AS SELECT count(*) AS n FROM twins;
    CREATE TABLE parent (k int) PARTITION BY LIST (k);
    CREATE TABLE child PARTITION OF parent FOR VALUES IN (1, 2);
    INSERT INTO parent VALUES (1), (2);
"""
PLANTED = {
    "a missing row": ("DELETE FROM t WHERE id = 1", 'rows of "public"."t": 1 missing'),
    "a missing row of a partition": ("DELETE FROM parent WHERE k = 2", 'rows of "public"."child": 1 missing'),
    "a missing row without columns": ("DELETE FROM bare", 'rows of "public"."bare": 1 missing'),
    "a row too many": ("INSERT INTO t VALUES (4)", 'rows of "public"."t": 1 not expected'),
    "a row twice": ("INSERT INTO twins VALUES (2)", 'rows of "public"."twins": 1 not expected'),
    "a twin lost": (
        "DELETE FROM twins WHERE ctid = (SELECT min(ctid) FROM twins)",
        'rows of "public"."twins": 1 missing',
    ),
    "a changed value": ("UPDATE t SET name = 'eins' WHERE id = 1", "not expected:\n1\teins"),
    "a value changed in its last bit": (
        "UPDATE t SET amount = 0.30000000000000004 - 0.2 WHERE id = 1",
        "not expected:\n1\tone\t0.10000000000000003",
    ),
    "NULL for an empty text": ("UPDATE t SET name = NULL WHERE id = 2", "not expected:\n2\t\\N"),
    "the end of a long value": ("UPDATE long SET words = words || '!'", 'rows of "public"."long": 1 missing'),
    "a missing table": ("DROP TABLE twins CASCADE", "TABLE public.twins: missing"),
    "a table too many": ("CREATE TABLE extra ()", "TABLE public.extra: not expected"),
    "a missing index": ("DROP INDEX t_by_name", "INDEX public.t_by_name: missing"),
    "another default": ("ALTER TABLE t ALTER name SET DEFAULT 'y'", "+    name text DEFAULT 'y'::text"),
    "another type": (
        "ALTER TABLE long ALTER words TYPE varchar",
        "+    words character varying",
    ),
    "a missing check": ("ALTER TABLE t DROP CONSTRAINT small", "CONSTRAINT small CHECK"),
    "another policy": ("ALTER POLICY mine ON t USING (id < 4)", "POLICY public.t mine: differs"),
    "row security off": ("ALTER TABLE t DISABLE ROW LEVEL SECURITY", "ROW SECURITY public.t: missing"),
    "row security forced": ("ALTER TABLE t FORCE ROW LEVEL SECURITY", "FORCE ROW LEVEL SECURITY"),
    "a right lost": ("REVOKE INSERT ON t FROM compare_reader", "ACL public.TABLE t: differs"),
    "a right too many": ("GRANT SELECT ON twins TO PUBLIC", "ACL public.TABLE twins: not expected"),
    "a default right": (
        "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO compare_reader",
        "DEFAULT ACL public.DEFAULT PRIVILEGES FOR TABLES: not expected",
    ),
    "another owner": ("ALTER TABLE twins OWNER TO compare_reader", "TABLE public.twins: differs"),
    "a sequence behind": ("SELECT setval('s', 1, false)", 'sequence "public"."s": expected 1, called'),
    "a sequence ahead": ("SELECT nextval('untouched')", 'sequence "public"."untouched": expected 1, not called'),
    "another increment": ("ALTER SEQUENCE s INCREMENT 6", "SEQUENCE public.s: differs"),
    "a comment lost": ("COMMENT ON COLUMN t.name IS NULL", "COMMENT public.COLUMN t.name: missing"),
    "a trigger off": ("ALTER TABLE t DISABLE TRIGGER watch", "TRIGGER public.t watch: differs"),
    "another function body": (
        "CREATE OR REPLACE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
        "FUNCTION public.f(): differs",
    ),
    "another view": ("CREATE OR REPLACE VIEW v AS SELECT id FROM t WHERE id > 1", "VIEW public.v: differs"),
    "a stale materialized view": ("REFRESH MATERIALIZED VIEW m WITH NO DATA", 'rows of "public"."m": 1 missing'),
    "another bound": (
        "ALTER TABLE parent DETACH PARTITION child; ALTER TABLE parent ATTACH PARTITION child DEFAULT",
        "TABLE ATTACH public.child: differs",
    ),
}  # fmt: skip


@pytest.fixture
async def expected(create_database: CreateDatabase) -> Database:
    return await create_database(key="compare", build=SAMPLE)


async def test_a_copy_is_no_different(expected: Database, create_database: CreateDatabase) -> None:
    copy = await create_database(key="compare", build=SAMPLE)
    assert await differences(expected, copy) == []


async def test_the_order_of_rows_and_rights_means_nothing(expected: Database, create_database: CreateDatabase) -> None:
    other = await create_database(key="compare", build=SAMPLE)
    await other.execute("UPDATE twins SET n = n; GRANT SELECT ON t TO pg_monitor; GRANT SELECT ON v TO pg_monitor")
    await expected.execute("GRANT SELECT ON v TO pg_monitor; GRANT SELECT ON t TO pg_monitor")
    assert await differences(expected, other) == []


@pytest.mark.parametrize(("change", "said"), PLANTED.values(), ids=PLANTED.keys())
async def test_it_finds(expected: Database, create_database: CreateDatabase, change: str, said: str) -> None:
    changed = await create_database(key="compare", build=SAMPLE)
    await changed.execute(change)
    assert said in "\n".join(await differences(expected, changed))


async def test_a_schema_can_be_left_out(expected: Database, create_database: CreateDatabase) -> None:
    other = await create_database(key="compare", build=SAMPLE)
    await other.execute('CREATE SCHEMA "Our Own"; CREATE TABLE "Our Own".t AS SELECT 1')
    assert await differences(expected, other, ignore_schemas=["Our Own"]) == []
