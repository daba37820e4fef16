"""The data that speed and size are measured on: mixed tables, made up, the same every time."""

# At scale 1: about 1.6 GB of COPY text. Rows in millions are what tables of agents look like: ids, times, JSON, prose,
# vectors.
MIXED = """
CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, agent uuid NOT NULL, at timestamptz NOT NULL,
    kind text NOT NULL, payload jsonb NOT NULL, cost numeric(12, 6), ok boolean
);
INSERT INTO events (agent, at, kind, payload, cost, ok)
SELECT md5((i % 5000)::text)::uuid, timestamptz '2026-01-01 00:00Z' + i * interval '7.3 s',
       (ARRAY['query', 'tool', 'reply', 'error'])[1 + i % 4],
       jsonb_build_object('step', i, 'tokens', (i::bigint * 7919) % 4096, 'model', 'm-' || i % 7, 'trace', md5(i::text),
                          'note', repeat('word ' || (i % 97)::text || ' ', 1 + i % 9)),
       (i % 100000) / 977.0, i % 13 <> 0
  FROM generate_series(1, {events}) i;
CREATE TABLE messages (id uuid PRIMARY KEY, thread bigint, body text, created_at timestamptz, updated_at timestamptz);
INSERT INTO messages
SELECT md5('m' || i)::uuid, i / 20,
       (SELECT string_agg(md5((i::bigint * k)::text) || ' some plain words in between ', '')
          FROM generate_series(1, 1 + i % 6) k),
       timestamptz '2026-01-01 00:00Z' + i * interval '3 s', timestamptz '2026-06-01 00:00Z' + i * interval '1 s'
  FROM generate_series(1, {messages}) i;
CREATE TABLE embeddings (id bigint PRIMARY KEY, v real[] NOT NULL);
INSERT INTO embeddings
SELECT i, (SELECT array_agg(sin(i::float8 * k)::real) FROM generate_series(1, 96) k)
  FROM generate_series(1, {embeddings}) i;
CREATE TABLE small (id int PRIMARY KEY, t text);
INSERT INTO small SELECT i, 'row ' || i FROM generate_series(1, 100000) i;
"""


def mixed(scale: float) -> str:
    """SQL for the mixed tables at a scale."""
    rows = {"events": 3_600_000, "messages": 1_800_000, "embeddings": 220_000}
    return MIXED.format(**{name: round(count * scale) for name, count in rows.items()})


def many_tables(count: int) -> list[str]:
    """SQL for many small tables, a statement each."""
    return [
        f"CREATE TABLE small_{i:04d} (id int PRIMARY KEY, name text, at timestamptz);"
        f"INSERT INTO small_{i:04d} SELECT g, 'row ' || g, '2026-01-01Z' FROM generate_series(1, 100) g"
        for i in range(count)
    ]
