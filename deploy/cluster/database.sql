-- Role and database; run by setup-coordinator as PostgreSQL's superuser, with :password set.
\set ON_ERROR_STOP on
-- Whatever the server logs, not this.
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
SET log_min_duration_statement = -1;
SET password_encryption = 'scram-sha-256';
SELECT 'CREATE ROLE "@POSTGRES_USER@" LOGIN'
  WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '@POSTGRES_USER@') \gexec
ALTER ROLE "@POSTGRES_USER@" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD :'password';
SELECT 'CREATE DATABASE "@POSTGRES_DB@" OWNER "@POSTGRES_USER@" ENCODING ''UTF8'' TEMPLATE template0'
  WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '@POSTGRES_DB@') \gexec
