-- A role that may take full backups and nothing else.
--
-- Run it as a superuser in the database to back up:   psql -d DATABASE -f role.sql
-- Then give it a password, which psql does not show:  \password rowvault
-- And connect as it:                                  ROWVAULT_DATABASE_URL=postgresql://rowvault:…@HOST:5432/DATABASE
-- `rowvault doctor` says what is still missing, with the SQL.

-- BYPASSRLS: rows that row security would hide belong into a backup; without it a backup is refused, never partial.
-- The limit: ROWVAULT_COPY_JOBS + 3 connections a run (the job lock, the snapshot, pg_dump), twice for a replica.
CREATE ROLE rowvault LOGIN BYPASSRLS CONNECTION LIMIT 20;

-- SELECT on every table, view and sequence and USAGE on every schema, those of tomorrow too; no right to change anything.
-- https://www.postgresql.org/docs/current/predefined-roles.html
GRANT pg_read_all_data TO rowvault;

-- Instead of pg_read_all_data, where it may read some schemas only; once for each of them, and for each role that makes
-- tables there. All tables of a schema, since schemas are dumped whole and pg_dump locks every table in them.
--   GRANT USAGE ON SCHEMA app TO rowvault;
--   GRANT SELECT ON ALL TABLES IN SCHEMA app TO rowvault;
--   GRANT SELECT ON ALL SEQUENCES IN SCHEMA app TO rowvault;
--   ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app GRANT SELECT ON TABLES TO rowvault;
--   ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app GRANT SELECT ON SEQUENCES TO rowvault;

-- Rowvault's own schema, the only place it writes to: a token that tells this database from a clone of it, and the
-- verification log (not with ROWVAULT_VERIFICATION_LOG=off).
CREATE SCHEMA rowvault AUTHORIZATION rowvault;
COMMENT ON SCHEMA rowvault IS 'Rowvault''s own; nothing of the application belongs here';

-- Not given here, for it is much: what incremental backups take beside `wal_level = logical`. REPLICATION reads the
-- changes of every database of the server, and only those who act with an owner's rights may publish a table.
-- https://www.postgresql.org/docs/current/logical-replication-security.html
--   ALTER ROLE rowvault REPLICATION;
--   GRANT CREATE ON DATABASE app TO rowvault;
--   GRANT app_owner TO rowvault;
-- The last for each role that owns tables to back up, a superuser never: give such tables another owner first.

-- Only where it was taken from everybody: the right to connect.
DO $$ BEGIN EXECUTE pg_catalog.format('GRANT CONNECT ON DATABASE %I TO rowvault', pg_catalog.current_database()); END $$;

-- Where BYPASSRLS cannot be given (some managed servers), connect as the owner of the tables instead, which row security
-- does not bind unless a table says FORCE ROW LEVEL SECURITY.
