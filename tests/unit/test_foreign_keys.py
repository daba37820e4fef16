"""What definitions declare, read as pg_dump writes them."""

from jobs.erasing.foreign_keys import Declared, ForeignKey, declared, foreign_keys
from jobs.postgres.identifiers import TableName

SQL = """
CREATE TABLE public.people (
    id integer NOT NULL,
    mail character varying(50) CONSTRAINT people_mail_not_null NOT NULL,
    "Odd ""Name" text DEFAULT 'x NOT NULL'::text,
    note text,
    CONSTRAINT people_note_check CHECK ((length(note) > 1))
);

CREATE TABLE "My Schema".parts (
    a integer NOT NULL
)
PARTITION BY RANGE (a);

CREATE UNIQUE INDEX mail_is_unique ON public.people USING btree (mail) WHERE (note IS NULL);

ALTER TABLE ONLY public.people
    ADD CONSTRAINT people_pkey PRIMARY KEY (id);

ALTER TABLE ONLY "My Schema".parts
    ADD CONSTRAINT "parts of" FOREIGN KEY ("A b", c) REFERENCES public.people(id, "Odd ""Name") ON DELETE CASCADE;

ALTER TABLE public.days
    ADD CONSTRAINT days_fkey FOREIGN KEY (x) REFERENCES public.people(id);
"""


def test_foreign_keys_are_read_with_whatever_names() -> None:
    people = TableName("public", "people")
    assert foreign_keys(SQL) == (
        ForeignKey("parts of", TableName("My Schema", "parts"), ("A b", "c"), people, ("id", 'Odd "Name')),
        ForeignKey("days_fkey", TableName("public", "days"), ("x",), people, ("id",)),
    )


def test_columns_are_known_by_what_they_may_hold() -> None:
    found = declared(SQL)
    people = found[TableName("public", "people")]
    assert people.not_null >= {"id", "mail"}
    assert "note" not in people.not_null
    assert {"id", "mail"} <= people.unique
    assert people.checked("note")
    assert not people.checked("mail")
    assert found[TableName("My Schema", "parts")] == Declared(frozenset({"a"}), frozenset(), ())
