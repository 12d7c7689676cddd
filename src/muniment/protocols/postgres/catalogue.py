"""What we ask the target about its names, and how the answers become a `Catalog`.

Every name in these texts is qualified, operators too: they may run under a search path that the client chose.
A view that uses a whole row (varattno 0 in its rule) depends on column 0, which stands for every column: pg_depend does
not say which columns a whole row has. One that uses a function of the database's own depends on (0, 0), `ANYTHING`.
Source: PostgreSQL manual, "System Catalogs"; "System Information Functions" (current_schemas).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from muniment.model.exchange import Catalog, Relation

Rows = Sequence[Sequence[bytes | None]]

PATH_QUERY = """
SELECT 'p' AS kind, s.name::pg_catalog.text, s.n::pg_catalog.text, '', ''
  FROM pg_catalog.unnest(pg_catalog.current_schemas(true)) WITH ORDINALITY AS s(name, n)
UNION ALL
SELECT 't', c.relname::pg_catalog.text, '0', '', '' FROM pg_catalog.pg_class AS c
 WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()
"""

CATALOG_QUERY = """
SELECT 'r' AS kind, c.oid::pg_catalog.text, n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
       c.relkind::pg_catalog.text
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r','v','m','p','f','S']::pg_catalog."char"[])
UNION ALL
SELECT 'a', a.attrelid::pg_catalog.text, a.attnum::pg_catalog.text, a.attname::pg_catalog.text, ''
  FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
 WHERE a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
   AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r','v','m','p','f']::pg_catalog."char"[])
UNION ALL
SELECT 'f', p.proname::pg_catalog.text, n.nspname::pg_catalog.text,
       pg_catalog.bool_and(e.objid IS NOT NULL)::pg_catalog.text, ''
  FROM pg_catalog.pg_proc AS p JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
  LEFT JOIN pg_catalog.pg_depend AS e ON e.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::pg_catalog.regclass
   AND e.objid OPERATOR(pg_catalog.=) p.oid AND e.deptype OPERATOR(pg_catalog.=) 'e'
 GROUP BY p.proname, n.nspname
UNION ALL
SELECT DISTINCT 'd', r.ev_class::pg_catalog.text, d.refobjid::pg_catalog.text, d.refobjsubid::pg_catalog.text, ''
  FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_rewrite AS r ON r.oid OPERATOR(pg_catalog.=) d.objid
 WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
   AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
   AND d.refobjid OPERATOR(pg_catalog.<>) r.ev_class AND d.refobjsubid OPERATOR(pg_catalog.<>) 0
UNION ALL
SELECT DISTINCT 'd', r.ev_class::pg_catalog.text, d.refobjid::pg_catalog.text, '0', ''
  FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_rewrite AS r ON r.oid OPERATOR(pg_catalog.=) d.objid
 WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
   AND d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_class'::pg_catalog.regclass
   AND d.refobjid OPERATOR(pg_catalog.<>) r.ev_class
   AND r.ev_action::pg_catalog.text OPERATOR(pg_catalog.~~) '%:varattno 0 %'
UNION ALL
SELECT DISTINCT 'd', r.ev_class::pg_catalog.text, '0', '0', ''
  FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_rewrite AS r ON r.oid OPERATOR(pg_catalog.=) d.objid
 WHERE d.classid OPERATOR(pg_catalog.=) 'pg_catalog.pg_rewrite'::pg_catalog.regclass
   AND d.refclassid OPERATOR(pg_catalog.=) ANY (
         ARRAY['pg_catalog.pg_proc', 'pg_catalog.pg_operator']::pg_catalog.regclass[]::pg_catalog.oid[])
   AND d.refobjid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
   AND NOT EXISTS (
         SELECT FROM pg_catalog.pg_depend AS e WHERE e.classid OPERATOR(pg_catalog.=) d.refclassid
            AND e.objid OPERATOR(pg_catalog.=) d.refobjid AND e.deptype OPERATOR(pg_catalog.=) 'e')
UNION ALL
SELECT DISTINCT 'u', n.nspname::pg_catalog.text, c.relname::pg_catalog.text, '', ''
  FROM pg_catalog.pg_rewrite AS r JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) r.ev_class
  JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE r.ev_type OPERATOR(pg_catalog.<>) '1'::pg_catalog."char"
UNION ALL
SELECT 'i', i.inhrelid::pg_catalog.text, i.inhparent::pg_catalog.text, '', '' FROM pg_catalog.pg_inherits AS i
"""


def _texts(row: Sequence[bytes | None]) -> list[str]:
    return [(value or b"").decode("utf-8", "replace") for value in row]


def read_path(rows: Rows) -> tuple[tuple[str, ...], frozenset[str]]:
    """The effective schemas in order, and the session's temporary relations, from the rows of `PATH_QUERY`."""
    path: list[tuple[int, str]] = []
    temporary: set[str] = set()
    for row in rows:
        kind, name, order, *_ = _texts(row)
        if kind == "p":
            path.append((int(order), name))
        else:
            temporary.add(name)
    return tuple(name for _, name in sorted(path)), frozenset(temporary)


def read_catalog(rows: Rows, database: str, version: int, now_us: int) -> Catalog:
    """A `Catalog` from the rows of `CATALOG_QUERY`."""
    columns: dict[int, list[tuple[int, str]]] = defaultdict(list)
    heads: list[tuple[int, str, str, str]] = []
    functions: dict[str, set[str]] = defaultdict(set)
    edges: dict[int, set[tuple[int, int]]] = defaultdict(set)
    parents: dict[int, set[int]] = defaultdict(set)
    shipped: set[str] = set()
    ruled: set[str] = set()
    for row in rows:
        kind, one, two, three, four = _texts(row)
        if kind == "r":
            heads.append((int(one), two, three, four))
        elif kind == "a":
            columns[int(one)].append((int(two), three))
        elif kind == "f":
            functions[one].add(two)
            if three == "true":
                shipped.add(f"{two}.{one}")
        elif kind == "u":
            ruled.add(f"{one}.{two}")
        elif kind == "i":
            parents[int(one)].add(int(two))
        else:
            edges[int(one)].add((int(two), int(three)))
    relations = [Relation(oid, schema, name, kind, tuple(sorted(columns[oid]))) for oid, schema, name, kind in heads]
    return Catalog(
        database=database,
        version=version,
        loaded_at_us=now_us,
        relations={(r.schema, r.name): r for r in relations},
        by_oid={r.oid: r for r in relations},
        functions={name: frozenset(schemas) for name, schemas in functions.items()},
        depends={view: _closure(view, edges) for view in edges},
        inherits={child: frozenset(found) for child, found in parents.items()},
        shipped=frozenset(shipped),
        ruled=frozenset(ruled),
    )


def _closure(view: int, edges: dict[int, set[tuple[int, int]]]) -> frozenset[tuple[int, int]]:
    """Everything that a view is built from, through other views too."""
    found: set[tuple[int, int]] = set()
    waiting = [view]
    seen = {view}
    while waiting:
        for relation, column in edges.get(waiting.pop(), ()):
            found.add((relation, column))
            if relation not in seen:
                seen.add(relation)
                waiting.append(relation)
    return frozenset(found)
