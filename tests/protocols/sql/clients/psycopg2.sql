BEGIN
-- ;;
select 1
-- ;;
COMMIT
-- ;;
BEGIN READ ONLY
-- ;;
select 2
-- ;;
ROLLBACK
-- ;;
SELECT t.oid, typarray
FROM pg_type t JOIN pg_namespace ns
    ON typnamespace = ns.oid
WHERE typname = 'hstore';
-- ;;
SELECT t.oid, typarray, attname, atttypid
FROM pg_type t
JOIN pg_namespace ns ON typnamespace = ns.oid
JOIN pg_attribute a ON attrelid = typrelid
WHERE typname = 'comp' AND nspname = 'public'
    AND attnum > 0 AND NOT attisdropped
ORDER BY attnum;
-- ;;
select rngtypid, rngsubtype, typarray
from pg_range r
join pg_type t on t.oid = rngtypid
join pg_namespace ns on ns.oid = typnamespace
where typname = 'rng' and ns.nspname = 'public';
-- ;;
SET default_transaction_isolation TO 'SERIALIZABLE'
-- ;;
select 3
-- ;;
DISCARD ALL
