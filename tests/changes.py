"""A database of many shapes, and what may happen to its rows: statements, and the changes of tables that they make."""

LARGE = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 200) n)"
BUILD = f'''
    CREATE TABLE items (id int PRIMARY KEY, note text, twice int GENERATED ALWAYS AS (id * 2) STORED, large text);
    ALTER TABLE items ALTER large SET STORAGE EXTERNAL;
    INSERT INTO items SELECT n, 'note ' || n FROM generate_series(1, 100) n;
    UPDATE items SET large = {LARGE};
    CREATE TABLE "Odd Names" ("the ""key""" text, other int, v numeric[], PRIMARY KEY (other, "the ""key"""));
    INSERT INTO "Odd Names" SELECT E'tab\\there ' || n, n % 3, ARRAY[n, NULL] FROM generate_series(1, 20) n;
    CREATE TABLE days (day date, n int, v text, PRIMARY KEY (day, n)) PARTITION BY RANGE (day);
    CREATE TABLE days_2026 PARTITION OF days FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE TABLE days_rest PARTITION OF days DEFAULT;
    INSERT INTO days SELECT '2025-12-01'::date + n, n, 'v' FROM generate_series(1, 60) n;
    CREATE TABLE parents (id int PRIMARY KEY); CREATE TABLE children (id int PRIMARY KEY, p int REFERENCES parents);
    INSERT INTO parents VALUES (1), (2); INSERT INTO children VALUES (1, 1), (2, 2);
    CREATE TABLE mails (id int PRIMARY KEY, mail text NOT NULL UNIQUE, v text, large text);
    ALTER TABLE mails REPLICA IDENTITY USING INDEX mails_mail_key;
    ALTER TABLE mails ALTER large SET STORAGE EXTERNAL, ALTER mail SET STORAGE EXTERNAL;
    INSERT INTO mails SELECT n, n || '@example.org', 'v', {LARGE} FROM generate_series(1, 5) n;
    INSERT INTO mails VALUES (9, repeat('long ', 500), 'v');
    CREATE TABLE whole (id int PRIMARY KEY, v text, large text); ALTER TABLE whole REPLICA IDENTITY FULL;
    ALTER TABLE whole ALTER large SET STORAGE EXTERNAL;
    INSERT INTO whole SELECT n, 'v', {LARGE} FROM generate_series(1, 5) n;
'''

CHANGES: dict[str, tuple[list[str], dict[str, int] | None]] = {
    "nothing": ([], {}),
    "rows that come": (["INSERT INTO items SELECT n, 'new' FROM generate_series(1001, 1010) n"], {"items": 10}),
    "rows that change": (["UPDATE items SET note = note || '!' WHERE id BETWEEN 1 AND 5"], {"items": 5}),
    "rows that go": (["DELETE FROM items WHERE id BETWEEN 11 AND 15"], {"items": 5}),
    "rows that come back": (["DELETE FROM items WHERE id = 16", "INSERT INTO items VALUES (16)"], {"items": 2}),
    "rows that come and go": (["INSERT INTO items VALUES (2000)", "DELETE FROM items WHERE id = 2000"], {"items": 2}),
    "a key that changes": (["UPDATE items SET id = 3000 WHERE id = 17"], {"items": 1}),
    "keys that change places": (
        ["UPDATE items SET id = -1 WHERE id = 18", "UPDATE items SET id = 18 WHERE id = 19",
         "UPDATE items SET id = 19 WHERE id = -1"], {"items": 3},
    ),
    "a large value that comes": ([f"UPDATE items SET large = {LARGE} || 'x' WHERE id = 20"], {"items": 1}),
    "a large value that goes": (["UPDATE items SET large = NULL WHERE id = 21"], {"items": 1}),
    "a large value that follows a key": (
        ["UPDATE items SET id = 3001 WHERE id = 22", "UPDATE items SET note = 'moved' WHERE id = 3001"], {"items": 2},
    ),
    "text that COPY escapes": (
        [r"INSERT INTO items VALUES (2001, E'\\N'), (2002, E'\\U'), (2003, E'a\tb\nc\\d\r\x01'), (2004, '')"],
        {"items": 4},
    ),
    "names and keys of any kind": (
        ["""UPDATE "Odd Names" SET v = '{}' WHERE other = 1""", """DELETE FROM "Odd Names" WHERE other = 2"""], None,
    ),
    "a row that moves to another partition": (
        ["UPDATE days SET day = '2026-06-01' WHERE day = '2025-12-05'"], {"days_rest": 1, "days_2026": 1},
    ),
    "a truncate": (["TRUNCATE days_2026", "INSERT INTO days VALUES ('2026-02-02', 1)"], {"days_2026": 2}),
    "a truncate of a partitioned table": (["TRUNCATE days", "INSERT INTO days VALUES ('2026-02-03', 1)"], None),
    "a truncate that cascades": (
        ["TRUNCATE parents CASCADE", "INSERT INTO parents VALUES (3)"], {"parents": 2, "children": 1},
    ),
    "a truncate that is rolled back": (["BEGIN; TRUNCATE items; INSERT INTO items VALUES (1); ROLLBACK"], {}),
    "a transaction that is rolled back": (["BEGIN; DELETE FROM items; ROLLBACK"], {}),
    "a savepoint that is rolled back": (
        ["BEGIN; UPDATE items SET note = 'yes' WHERE id = 23; SAVEPOINT a; DELETE FROM items WHERE id < 30;"
         "ROLLBACK TO a; UPDATE items SET note = 'both' WHERE id = 24; COMMIT"], {"items": 2},
    ),
    "several tables": (
        ["BEGIN; INSERT INTO parents VALUES (50); INSERT INTO children VALUES (50, 50); COMMIT"],
        {"parents": 1, "children": 1},
    ),
    "a commit that nobody waits for": (
        ["SET synchronous_commit = off; INSERT INTO items SELECT n FROM generate_series(4000, 4099) n"], {"items": 100},
    ),
    "an identity that is another index": (
        ["UPDATE mails SET v = 'w' WHERE id = 1", "UPDATE mails SET mail = 'new' WHERE id = 2",
         "UPDATE mails SET id = 30 WHERE id = 3", "DELETE FROM mails WHERE id = 4"], {"mails": 4},
    ),
    "a large key that is not touched": (
        ["UPDATE mails SET v = 'w' WHERE id = 9", "UPDATE mails SET v = 'x' WHERE id = 9"], {"mails": 2},
    ),
    "an identity that is the whole row": (
        ["UPDATE whole SET v = 'w' WHERE id = 1", "UPDATE whole SET id = 20 WHERE id = 2",
         "DELETE FROM whole WHERE id = 3"], {"whole": 3},
    ),
}  # fmt: skip
