DROP TABLE policies;

DROP TABLE provenance;
