"""Load one archive into PostgreSQL and leave the receipt."""
