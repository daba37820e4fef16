-- A database that is hard to back up and restore, for PostgreSQL 15 and newer. tests/hostile.py says how it is used.
-- Triggers raise if they fire, constraints that are NOT VALID are violated: data must go in exactly as it was.

SET timezone = 'UTC';
SET client_min_messages = warning;

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'hostile "owner".1') THEN
        CREATE ROLE "hostile ""owner"".1";
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'Hostile Reader') THEN
        CREATE ROLE "Hostile Reader";
    END IF;
END
$$;

CREATE SCHEMA "Sch.ema/with ""all"" 100% of=it";
COMMENT ON SCHEMA "Sch.ema/with ""all"" 100% of=it" IS 'quotes '' and "double", backslash \n, $$ and $_$,
\restrict a second line
-- Name: not an object; Type: TABLE; Schema: nowhere; Owner: nobody';
CREATE SCHEMA "..";
CREATE SCHEMA "empty";

-- Types ------------------------------------------------------------------------------------------------------

CREATE TYPE "Mood.of ""the"" day" AS ENUM ('it''s', 'a,b', '"q"', '\N', 'tab	here', 'UPPER', 'upper', '🦄');
CREATE DOMAIN short_text AS text DEFAULT 'd''oh' CHECK (length(VALUE) < 20) CHECK (VALUE <> 'no');
CREATE DOMAIN positive AS int CONSTRAINT must_be_positive CHECK (VALUE > 0);
CREATE DOMAIN positives AS positive[];
CREATE TYPE inner_pair AS (a int, "b b" text);
CREATE TYPE "outer" AS (pair inner_pair, pairs inner_pair[], mood "Mood.of ""the"" day");
CREATE TYPE float_range AS RANGE (subtype = float8, subtype_diff = float8mi);
COMMENT ON TYPE "outer" IS 'holds pairs';
COMMENT ON DOMAIN positive IS E'more\nthan nothing';

CREATE TABLE every_type (
    id int PRIMARY KEY,
    small smallint, big bigint, num numeric, num_scaled numeric(20, 5), real4 real, real8 float8, cash money,
    flag boolean, txt text, var varchar(40), fixed char(5), single "char", nam name, bytes bytea,
    day date, clock time(3), clocktz timetz, stamp timestamp, stamptz timestamptz, span interval,
    uid uuid, js json, jsb jsonb, path jsonpath,
    ip inet, net cidr, mac macaddr, mac8 macaddr8,
    bits bit(5), varbits varbit, vec tsvector, query tsquery,
    pt point, ln line, seg lseg, bx box, pth path, poly polygon, circ circle,
    ir int4range, nr numrange, tr tstzrange, dr daterange, fr float_range, mr int4multirange, dmr datemultirange,
    mood "Mood.of ""the"" day", short short_text, pos positive, poses positives, comp "outer",
    texts text[], ints int[], nested int[][], bytess bytea[], comps "outer"[], moods "Mood.of ""the"" day"[],
    oidish oid, class regclass, lsn pg_lsn, xact xid8, snap pg_snapshot
);
INSERT INTO every_type (id) VALUES (0);
INSERT INTO every_type VALUES (
    1, -32768, -9223372036854775808, ('-1' || repeat('0', 500))::numeric - 1e-400, -0.00001, '-0', '-0',
    -92233720368547758.08, false, '', '', '', '', '', '',
    '4713-01-01 BC', '00:00', '24:00:00-15:59:59', '4713-01-01 00:00:00 BC', '4713-01-01 00:00:00+00 BC',
    '-178000000 years -1 mons -12345678 days -00:00:00.000001',
    '00000000-0000-0000-0000-000000000000', '{ "b" : 1, "b" : 2 ,"\u0000":"kept as written" }', '{}', '$',
    '::', '0.0.0.0/0', '00:00:00:00:00:00', '00:00:00:00:00:00:00:00',
    '00000', '', '', '',
    '(-0,-0)', '{1,0,0}', '[(0,0),(0,0)]', '(0,0),(0,0)', '[(0,0)]', '((0,0))', '<(0,0),0>',
    'empty', 'empty', 'empty', 'empty', 'empty', '{}', '{}',
    'it''s', '', 1, '{}', '(,,)',
    '{}', '{}', '{}', '{}', '{}', '{}',
    0, 0, '0/0', '0', '1:1:'
), (
    2, 32767, 9223372036854775807, 'NaN', 'NaN', 'NaN', 'NaN', 92233720368547758.07, true,
    E'back\\slash \\N \\. \\\\. tab\t newline\n return\r\n bell\x07 vertical\x0b delete\x7f "quote" ''single'' | , ;',
    E'\\N', E'a\n', E'\\', E'\\000\\377\\012 \\\\'::bytea,
    'bytes', 'infinity', '23:59:59.999', '23:59:59.999999+15:59:59', 'infinity', '-infinity', '1.000001 second',
    'ffffffff-ffff-ffff-ffff-ffffffffffff', '[1e400, "\ud83e\udd84", "\\"]',
    '{"z": [null, true, "\"\\\t", 1.10, -0, 123456789012345678901234567890.5], "": {"é": "🦄"}}', '$."a b"[*] ? (@ > 1)',
    'ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff', '::/0', 'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff',
    '11111', repeat('10', 500)::varbit, '''it''''s'':1A,2B ''back\\slash'':3 ''a b'':4C', '''a b'' & !(''c'':*B | d) <-> e',
    '(NaN,Infinity)', '{0.1,-1,1e300}', '[(1e-300,2),(3,4.000000000000001)]', '(1,1),(-1,-1)', '((0,0),(1,1),(2,0))',
    '((0,0),(1,1),(2,0))', '<(0.1,0.2),0.3>',
    '(,)', '[-0.5,1e100)', '[-infinity,infinity]', '(,2026-01-01)', '[-Infinity,NaN)', '{(,1),[5,9)}',
    '{[2026-01-01,2026-02-01)}',
    'tab	here', 'tab	quote" ''', 2147483647, '{1,2}', '("(1,""a \\""b\\"", c"")","{""(2,)"",NULL}","a,b")',
    E'{NULL,"NULL","",",","{}","\\"","\\\\","a\nb"," x ",🦄}', '[-3:-1]={1,NULL,3}', '{{1,2},{3,4}}',
    '{"\\x00ff",NULL}', '{NULL,"(,,)"}', '{"it''s","a,b","\"q\"","\\N","tab	here",NULL}',
    4294967295, 'pg_class', 'FFFFFFFF/FFFFFFFF', '18446744073709551615', '10:20:10,14,15'
), (
    3, 0, 0, 'Infinity', 123456789012345.67890, '3.4028235e38', '1.7976931348623157e308', 0, NULL,
    'Ünïcödé 漢字 👩‍👩‍👧‍👦 ' || U&'\202E rtl \0301 \FEFF \+10FFFF', repeat('é', 40), '漢字', 'x', repeat('n', 63), '\x00',
    '5874897-12-31', '24:00', '00:00:00+00', '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00',
    '178000000 years 23:59:59.999999',
    'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'null', 'null', 'strict $.a.size()',
    '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05',
    '10101', '1', 'a b:1', 'a',
    '(0.1,0.30000000000000004)', '{1,2,3}', '[(1,2),(3,4)]', '(3,4),(1,2)', '[(1,2),(3,4)]', '((1,2),(3,4))', '<(1,2),3>',
    '[1,2147483647)', '(1.10,2.20]', '["2026-03-29 01:00:00+01","2026-10-25 03:00:00+02")', 'empty', '(0.1,0.2)',
    '{[1,2),[3,4)}', '{}',
    '🦄', 'ok', 1, NULL, NULL,
    NULL, '{2147483647,-2147483648}', '{}', NULL, NULL, NULL,
    NULL, 'every_type', NULL, NULL, NULL
);
INSERT INTO every_type (id, real8, real4, num) VALUES
    (4, 'Infinity', 'Infinity', '-Infinity'), (5, '-Infinity', '-Infinity', 1.000000000000000000000),
    (6, 4.9406564584124654e-324, 1.4e-45, 0.00), (7, 0.1::float8 + 0.2, 16777217, -0.0), (8, 1e22, 1e10, 1e22);

-- Shapes of tables ---------------------------------------------------------------------------------------------

CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE no_columns_left (gone int);
INSERT INTO no_columns_left VALUES (1), (2);
ALTER TABLE no_columns_left DROP gone;
CREATE TABLE no_rows (a int, b text);
CREATE TABLE one_column_of_nothing (a text);
INSERT INTO one_column_of_nothing VALUES (NULL), (''), ('\N'), ('\.'), (E'\n'), (E'\\'), (NULL);
CREATE TABLE dropped_columns (first int, gone text, kept text NOT NULL, "gone too" int, last int DEFAULT 9);
INSERT INTO dropped_columns VALUES (1, 'x', 'keep', 5, 2);
ALTER TABLE dropped_columns DROP gone, DROP "gone too", ADD later int DEFAULT 7, ADD computed text;
INSERT INTO dropped_columns VALUES (2, 'kept', 3, 8, 'c');
CREATE UNLOGGED TABLE unlogged (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text);
INSERT INTO unlogged (v) VALUES ('lost in a crash');

CREATE FUNCTION "twice it"(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $_$
BEGIN
    -- $$ in a body, and a quote '
    RETURN n * 2;
END
$_$;
COMMENT ON FUNCTION "twice it"(int) IS 'doubles';
CREATE TABLE generated (
    base int,
    "twice of base" int GENERATED ALWAYS AS (public."twice it"(base)) STORED,
    middle text,
    shouted text GENERATED ALWAYS AS (upper(middle)) STORED
);
INSERT INTO generated (base, middle) VALUES (1, 'a'), (NULL, NULL), (3, E'tab\t');

CREATE TABLE identities (
    always_id bigint GENERATED ALWAYS AS IDENTITY (START 100 INCREMENT -7 MINVALUE -1000 MAXVALUE 100 CYCLE),
    default_id smallint GENERATED BY DEFAULT AS IDENTITY (SEQUENCE NAME "the ""identity"" sequence" START 5),
    serial_id serial,
    v text
);
INSERT INTO identities (v) VALUES ('a'), ('b');
INSERT INTO identities (always_id, default_id, serial_id, v) OVERRIDING SYSTEM VALUE VALUES (5, 30000, -1, 'own');

CREATE SEQUENCE free;
CREATE SEQUENCE "free.and ""quoted""" AS smallint INCREMENT -3 MINVALUE -30 MAXVALUE 30 START 30 CACHE 5 CYCLE;
SELECT nextval('"free.and ""quoted"""'), nextval('"free.and ""quoted"""');
CREATE SEQUENCE set_but_not_called;
SELECT setval('set_but_not_called', 41, false);
CREATE SEQUENCE at_its_end MAXVALUE 9223372036854775807;
SELECT setval('at_its_end', 9223372036854775807);
CREATE SEQUENCE owned_by_another OWNED BY dropped_columns.last;
COMMENT ON SEQUENCE free IS 'nobody owns it';

CREATE TABLE large (id int PRIMARY KEY, words text COMPRESSION pglz, noise bytea, flat text);
ALTER TABLE large ALTER noise SET STORAGE EXTERNAL, ALTER words SET STATISTICS 500, ALTER flat SET (n_distinct = -0.5);
INSERT INTO large
SELECT n, repeat('línea ' || n || E'\n', n * 150000),
       (SELECT string_agg(sha512((n || ':' || i)::bytea), '' ORDER BY i) FROM generate_series(1, 20000) AS i), 'short'
FROM generate_series(1, 2) AS n;

-- Partitions and inheritance -----------------------------------------------------------------------------------

CREATE TABLE by_list (k text, v int, PRIMARY KEY (v, k)) PARTITION BY LIST (k);
CREATE TABLE "by_list a,b" PARTITION OF by_list FOR VALUES IN ('a', 'it''s', E'back\\slash');
CREATE TABLE "..".by_list_default PARTITION OF by_list DEFAULT PARTITION BY HASH (v);
CREATE TABLE "..".hash_0 PARTITION OF "..".by_list_default FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE "..".hash_1 PARTITION OF "..".by_list_default FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO by_list SELECT (ARRAY['a', 'it''s', E'back\\slash', 'other', ''])[1 + n % 5], n FROM generate_series(1, 50) AS n;
CREATE TABLE by_range (at timestamptz, id int, note text) PARTITION BY RANGE (at, id);
CREATE TABLE by_range_old PARTITION OF by_range FOR VALUES FROM (MINVALUE, MINVALUE) TO ('2026-01-01 00:00:00+00', 0);
CREATE TABLE by_range_new (note text, gone int, id int, at timestamptz);
ALTER TABLE by_range_new DROP gone;
ALTER TABLE by_range ATTACH PARTITION by_range_new FOR VALUES FROM ('2026-01-01 00:00:00+00', 0) TO (MAXVALUE, MAXVALUE);
INSERT INTO by_range VALUES ('2020-02-29Z', 1, 'old'), ('2026-06-01Z', 2, 'new'), ('infinity', 3, 'never');
CREATE INDEX by_range_id ON by_range (id DESC);
CREATE TABLE nothing_below (a int) PARTITION BY LIST ((a % 10));

CREATE TABLE ancestor (id int, name text DEFAULT 'of ancestor', CHECK (id > 0));
CREATE TABLE other_ancestor (extra text);
CREATE TABLE descendant (own int) INHERITS (ancestor, other_ancestor);
CREATE TABLE grandchild (CHECK (id < 100)) INHERITS (descendant);
ALTER TABLE descendant ALTER name SET DEFAULT 'of descendant';
INSERT INTO ancestor VALUES (1);
INSERT INTO descendant (id, extra) VALUES (2, 'x');
INSERT INTO grandchild (id, own) VALUES (3, 4);

-- Keys and constraints -----------------------------------------------------------------------------------------

CREATE TABLE tree (id int PRIMARY KEY, parent int REFERENCES tree ON DELETE CASCADE DEFERRABLE);
INSERT INTO tree VALUES (3, NULL), (1, 3), (2, 1), (4, 4);
CREATE TABLE egg (id int PRIMARY KEY, hen int NOT NULL);
CREATE TABLE hen (id int PRIMARY KEY, egg int NOT NULL REFERENCES egg DEFERRABLE INITIALLY DEFERRED);
ALTER TABLE egg ADD CONSTRAINT "came.first" FOREIGN KEY (hen) REFERENCES hen DEFERRABLE INITIALLY DEFERRED;
INSERT INTO egg VALUES (1, 2), (2, 1);
INSERT INTO hen VALUES (1, 1), (2, 2);
CREATE TABLE points_at_partitions (
    v int, k text, FOREIGN KEY (v, k) REFERENCES by_list ON UPDATE CASCADE ON DELETE SET NULL (k)
);
INSERT INTO points_at_partitions VALUES (5, 'a'), (NULL, 'nowhere');
SET CONSTRAINTS ALL IMMEDIATE;

CREATE TABLE not_valid (id int, up int);
INSERT INTO not_valid VALUES (-1, 999), (1, 1);
ALTER TABLE not_valid ADD CONSTRAINT positive_id CHECK (id > 0) NOT VALID;
ALTER TABLE not_valid ADD CONSTRAINT has_up FOREIGN KEY (up) REFERENCES tree NOT VALID;
CREATE TABLE constrained (
    id int CONSTRAINT "the key" PRIMARY KEY DEFERRABLE,
    code text UNIQUE NULLS NOT DISTINCT,
    during int4range,
    place circle,
    EXCLUDE USING gist (during WITH &&) WHERE (id > 0),
    CONSTRAINT "no inherit" CHECK (code <> 'x') NO INHERIT
);
INSERT INTO constrained VALUES (1, 'a', '[1,5)'), (2, 'b', '[5,9)'), (-1, NULL, '[1,9)');
COMMENT ON CONSTRAINT "the key" ON constrained IS 'opens "it"';

-- Indexes ------------------------------------------------------------------------------------------------------

CREATE TABLE indexed (id int NOT NULL, t text, j jsonb, v tsvector, f float8) WITH (fillfactor = 70);
INSERT INTO indexed SELECT n, 'word ' || n, '{"a": [1, 2]}', to_tsvector('simple', 'some words'), n / 3.0
FROM generate_series(1, 100) AS n;
CREATE UNIQUE INDEX "key of ""indexed""" ON indexed (id) INCLUDE (t);
CREATE INDEX by_expression ON indexed (lower(t) COLLATE "C" text_pattern_ops DESC NULLS LAST, (public."twice it"(id)));
CREATE INDEX partial ON indexed USING btree (t) WITH (fillfactor = 50) WHERE t LIKE 'it''s %' OR id > 50;
CREATE INDEX hashed ON indexed USING hash (t);
CREATE INDEX inverted ON indexed USING gin (v, j jsonb_path_ops);
CREATE INDEX ranged ON indexed USING brin (f) WITH (pages_per_range = 4);
ALTER INDEX by_expression ALTER COLUMN 2 SET STATISTICS 77;
ALTER TABLE indexed REPLICA IDENTITY USING INDEX "key of ""indexed""";
ALTER TABLE indexed CLUSTER ON "key of ""indexed""";
ALTER TABLE no_rows REPLICA IDENTITY FULL;
CREATE STATISTICS "st.at" (ndistinct, mcv) ON t, id FROM indexed;
COMMENT ON INDEX partial IS 'only "some"';

-- Views --------------------------------------------------------------------------------------------------------

CREATE VIEW "view.one" ("col ""1""", two) AS SELECT id, t FROM indexed WHERE id < 10;
CREATE VIEW view_two WITH (security_barrier, security_invoker = true) AS
    SELECT two, count(*) AS n FROM "view.one" GROUP BY two;
CREATE VIEW updatable AS SELECT id, parent FROM tree WHERE id > 0 WITH LOCAL CHECK OPTION;
ALTER VIEW updatable ALTER id SET DEFAULT 1000;
CREATE VIEW grouped_by_key AS SELECT id, words FROM large GROUP BY id;
CREATE RECURSIVE VIEW down (id, depth) AS
    SELECT id, 0 FROM tree WHERE parent IS NULL UNION ALL SELECT t.id, d.depth + 1 FROM tree AS t JOIN down AS d ON t.parent = d.id;
CREATE MATERIALIZED VIEW filled AS SELECT two, n FROM view_two WITH DATA;
CREATE UNIQUE INDEX filled_key ON filled (two);
CREATE MATERIALIZED VIEW "on ""filled""" AS SELECT max(n) AS most FROM filled;
CREATE MATERIALIZED VIEW unfilled AS SELECT 1 AS one WITH NO DATA;
CREATE RULE "do.nothing" AS ON DELETE TO no_rows DO INSTEAD NOTHING;
COMMENT ON VIEW view_two IS 'a view on a view';
COMMENT ON COLUMN "view.one".two IS 'second';

-- Triggers: each state; none may fire while data goes in ---------------------------------------------------------

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'trigger % fired on %', TG_NAME, TG_RELID::regclass;
END
$$;
CREATE TABLE triggered (id int, v text);
INSERT INTO triggered VALUES (1, 'before the triggers');
CREATE TRIGGER origin BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION refuse('a ''quoted'' arg', E'back\\slash');
CREATE TRIGGER disabled AFTER INSERT ON triggered FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER "on.replica" AFTER INSERT OR UPDATE OF v ON triggered FOR EACH ROW WHEN (NEW.id > 0) EXECUTE FUNCTION refuse();
CREATE TRIGGER always BEFORE INSERT OR TRUNCATE ON triggered FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER seeing_rows AFTER INSERT ON triggered REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE CONSTRAINT TRIGGER later AFTER INSERT ON triggered DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE triggered DISABLE TRIGGER disabled, ENABLE REPLICA TRIGGER "on.replica", ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER on_leaves BEFORE INSERT ON by_list FOR EACH ROW EXECUTE FUNCTION refuse();
ALTER TABLE "by_list a,b" DISABLE TRIGGER on_leaves;
CREATE TRIGGER instead INSTEAD OF INSERT ON "view.one" FOR EACH ROW EXECUTE FUNCTION refuse();
COMMENT ON TRIGGER always ON triggered IS 'even on replicas';

-- Rights -------------------------------------------------------------------------------------------------------

CREATE TABLE "Sch.ema/with ""all"" 100% of=it"."secured.""rows""" (id int PRIMARY KEY, "secret col" text, shown text);
INSERT INTO "Sch.ema/with ""all"" 100% of=it"."secured.""rows""" VALUES (1, 'secret', 'shown'), (2, 's', 't');
ALTER TABLE "Sch.ema/with ""all"" 100% of=it"."secured.""rows""" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY "read.it" ON "Sch.ema/with ""all"" 100% of=it"."secured.""rows"""
    FOR SELECT TO "Hostile Reader", "hostile ""owner"".1" USING (id < 2 AND "secret col" <> 'it''s');
CREATE POLICY narrow ON "Sch.ema/with ""all"" 100% of=it"."secured.""rows""" AS RESTRICTIVE
    USING (true) WITH CHECK (EXISTS (SELECT FROM public.tree WHERE tree.id = "secured.""rows""".id));
CREATE POLICY remove ON "Sch.ema/with ""all"" 100% of=it"."secured.""rows""" FOR DELETE TO PUBLIC USING (false);
COMMENT ON POLICY narrow ON "Sch.ema/with ""all"" 100% of=it"."secured.""rows""" IS 'narrow';
ALTER TABLE tree ENABLE ROW LEVEL SECURITY;
CREATE TABLE policy_without_security (id int);
CREATE POLICY dormant ON policy_without_security USING (id = 1);

GRANT USAGE ON SCHEMA "Sch.ema/with ""all"" 100% of=it" TO "Hostile Reader";
GRANT SELECT (shown), UPDATE ("secret col", shown) ON "Sch.ema/with ""all"" 100% of=it"."secured.""rows""" TO "Hostile Reader";
GRANT SELECT, TRIGGER ON triggered TO "hostile ""owner"".1" WITH GRANT OPTION;
GRANT ALL ON every_type TO PUBLIC;
GRANT USAGE ON SEQUENCE free TO "Hostile Reader";
GRANT SELECT ON "view.one", filled TO "Hostile Reader";
REVOKE ALL ON TYPE inner_pair FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION "twice it"(int) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION "twice it"(int) TO "Hostile Reader";
REVOKE SELECT ON no_rows FROM postgres;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO "Hostile Reader";
ALTER DEFAULT PRIVILEGES FOR ROLE "hostile ""owner"".1" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT CREATE ON SCHEMA "..", public TO "hostile ""owner"".1";
ALTER TABLE by_range OWNER TO "hostile ""owner"".1";
ALTER TABLE "..".hash_1 OWNER TO "hostile ""owner"".1";
ALTER SCHEMA "empty" OWNER TO "hostile ""owner"".1";
ALTER SEQUENCE free OWNER TO "hostile ""owner"".1";
ALTER TYPE "Mood.of ""the"" day" OWNER TO "hostile ""owner"".1";
ALTER VIEW view_two OWNER TO "hostile ""owner"".1";

COMMENT ON TABLE every_type IS E'every\ttype\n''and'' "value" \\ of \\N them: 🦄';
COMMENT ON COLUMN every_type.txt IS '';
COMMENT ON COLUMN every_type.var IS '\.';
