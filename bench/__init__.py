"""CPU per query and per gigabyte: the gateway against PgBouncer and no proxy at all, in the same run."""
