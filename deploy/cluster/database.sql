-- Roles and database; run by setup-coordinator as PostgreSQL's superuser, with :password set.
\set ON_ERROR_STOP on
-- Whatever the server logs, not this.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;
SET password_encryption = 'scram-sha-256';
-- What each of the groups may do is granted by `earmark migrate`; docs/database.md lists it.
SELECT format('CREATE ROLE %I', name)
  FROM unnest(ARRAY['earmark_owner', 'earmark_writer', 'earmark_reviewer', 'earmark_analyst',
                    'earmark_desk', '@POSTGRES_USER@']) name
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) \gexec
ALTER ROLE earmark_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD NULL;
ALTER ROLE "@POSTGRES_USER@" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
GRANT earmark_writer TO "@POSTGRES_USER@";
ALTER ROLE earmark_desk LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD NULL;
GRANT earmark_reviewer TO earmark_desk;
SELECT 'CREATE DATABASE "@POSTGRES_DB@" OWNER earmark_owner ENCODING ''UTF8'' TEMPLATE template0'
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '@POSTGRES_DB@') \gexec
-- The pipeline owned everything once.
\connect "@POSTGRES_DB@"
REASSIGN OWNED BY "@POSTGRES_USER@" TO earmark_owner;
