"""The server as the oracle of the reader: what it says a query reads, and what its rows turn out to hold."""

from __future__ import annotations

import random
from collections.abc import Iterator

import psycopg
import pytest

from muniment.model.exchange import Catalog
from muniment.protocols.postgres import catalogue
from muniment.protocols.postgres.meaning import Names
from tests.live.servers import Cluster
from tests.protocols.sql.world import action

SECRET = "canary-of-the-oracle"
QUERIES = 1500
PATH = ("pg_catalog", "public", "oracle")

Server = psycopg.Connection[tuple[object, ...]]
Source = tuple[str, list[str]]  # (alias, columns)


@pytest.fixture
def server(cluster: Cluster) -> Iterator[Server]:
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS oracle CASCADE")
        connection.execute("CREATE SCHEMA oracle")
        connection.execute("SET search_path = public, oracle")
        connection.execute("SET statement_timeout = '2s'")
        connection.execute("CREATE TABLE oracle.people (id int, title text, ssn text)")
        connection.execute("CREATE TABLE oracle.notes (id int, person int, note text)")
        connection.execute("INSERT INTO oracle.people VALUES (1, 'a', %s), (2, 'b', %s)", (SECRET, SECRET))
        connection.execute("INSERT INTO oracle.notes VALUES (1, 1, 'x'), (2, 2, 'y')")
        yield connection
        connection.execute("DROP SCHEMA oracle CASCADE")


def catalog(server: Server) -> Catalog:
    rows = server.execute(catalogue.CATALOG_QUERY).fetchall()
    texts = [[None if value is None else str(value).encode() for value in row] for row in rows]
    return catalogue.read_catalog(texts, "billing", 1, 0)


def test_every_view_of_the_server_reads_what_its_dependencies_say(server: Server) -> None:
    names = Names(catalog(server), PATH)
    views = server.execute(
        "SELECT c.oid, pg_get_viewdef(c.oid), array(SELECT DISTINCT d.refobjid::regclass::oid FROM pg_depend d"
        " JOIN pg_rewrite r ON r.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass"
        " AND d.refclassid = 'pg_class'::regclass AND r.ev_class = c.oid AND d.refobjid <> c.oid)"
        " FROM pg_class c WHERE c.relkind IN ('v', 'm')"
    ).fetchall()
    assert len(views) > 100
    assert names.catalog
    for oid, text, wanted in views:
        found = action(str(text), names)
        relations = names.catalog.by_oid
        assert isinstance(wanted, list)
        named = {f"{relations[one].schema}.{relations[one].name}" for one in wanted}
        assert found.complete, (oid, found.why)
        assert named <= {touch.name for touch in found.touches if touch.verb == "select"}, oid


def test_a_value_that_comes_out_was_seen_beneath_its_column(server: Server) -> None:
    """Thousands of queries from a small grammar. Where the secret comes out of an output that has no origin, the
    reading must have shown its column, a star, or that it does not know."""
    names = Names(catalog(server), PATH)
    grammar = Grammar(random.Random(20_26))
    ran = seen = 0
    for _ in range(QUERIES):
        text, _columns = grammar.query([], grammar.random.randint(1, 4))
        try:
            cursor = server.execute(text)  # type: ignore[call-overload]
        except psycopg.Error:
            continue
        ran += 1
        found = action(text, names)
        assert found.complete, (found.why, text)
        (outs,) = found.outputs
        rows = cursor.fetchmany(50)
        assert outs is None or len(outs) == len(cursor.description), text
        for at in range(len(cursor.description)):
            if cursor.pgresult.ftable(at) or not any(SECRET in str(row[at]).lower() for row in rows):
                continue
            seen += 1
            beneath = outs[at] if outs is not None else None
            assert beneath is None or beneath & {"ssn", "*"}, text
    assert ran > QUERIES / 3
    assert seen > 50


class Grammar:
    """Random queries that mostly run: nested, correlated, renamed, with whole rows and names that hide each other."""

    def __init__(self, source: random.Random) -> None:
        self.random = source
        self._made = 0

    def query(self, outer: list[Source], depth: int, width: int = 0) -> Source:
        choose = self.random
        ctes = self._ctes(outer, depth) if depth > 0 and choose.random() < 0.3 else []
        head = f"WITH {', '.join(text for text, _ in ctes)} " if ctes else ""
        scope: list[Source] = []
        entries: list[str] = []
        for _ in range(choose.randint(1, 2)):
            text, source = self._from(outer + scope, depth - 1, [cte for _, cte in ctes])
            lateral = "LATERAL " if entries and text.startswith(("(", "unnest", "jsonb")) else ""
            entries.append(lateral + text)
            scope.append(source)
        if not width and choose.random() < 0.1:
            return f"{head}SELECT * FROM {', '.join(entries)}", [name for _, names in scope for name in names]
        visible = outer + scope if choose.random() < 0.6 else scope
        names = [f"{choose.choice(('ssn', 'title', 'v'))}{at or ''}" for at in range(width or choose.randint(1, 3))]
        outputs = ", ".join(f"{self._expression(visible, depth)} AS {name}" for name in names)
        text = f"{head}SELECT {outputs} FROM {', '.join(entries)}"
        if choose.random() < 0.1:
            text = f"({text}) UNION ALL SELECT {', '.join(['NULL'] * len(names))}"
        return text, names

    def _ctes(self, outer: list[Source], depth: int) -> list[tuple[str, Source]]:
        found = []
        for name in self.random.sample(["w", "people", "notes"], self.random.randint(1, 2)):
            text, columns = self.query(outer, depth - 1)
            if self.random.random() < 0.3:
                columns = [f"y{at}" for at in range(len(columns))]
                found.append((f"{name} ({', '.join(columns)}) AS ({text})", (name, columns)))
            else:
                found.append((f"{name} AS ({text})", (name, columns)))
        return found

    def _from(self, outer: list[Source], depth: int, ctes: list[Source]) -> tuple[str, Source]:
        choose = self.random
        self._made += 1
        alias = choose.choice(("x", "y", "people", "ssn", "title", f"a{self._made}"))
        kind = choose.random()
        if ctes and kind < 0.25:
            name, columns = choose.choice(ctes)
            return f"{name} AS {alias}", (alias, columns)
        if depth <= 0 or kind < 0.5:
            name, columns = choose.choice((("people", ["id", "title", "ssn"]), ("notes", ["id", "person", "note"])))
            if choose.random() < 0.2:
                return f"oracle.{name} AS {alias} (r0, r1, r2)", (alias, ["r0", "r1", "r2"])
            return f"oracle.{name} AS {alias}", (alias, columns)
        if kind < 0.8:
            text, columns = self.query(outer, depth - 1)
            if choose.random() < 0.3:
                columns = [f"z{at}" for at in range(len(columns))]
                return f"({text}) AS {alias} ({', '.join(columns)})", (alias, columns)
            return f"({text}) AS {alias}", (alias, columns)
        value = self._expression(outer, depth - 1)
        if kind < 0.9:
            return f"unnest(ARRAY[({value})::text]) AS {alias} (u)", (alias, ["u"])
        return f"jsonb_each_text(to_jsonb(ROW({value}))) AS {alias} (k, v)", (alias, ["k", "v"])

    def _expression(self, scope: list[Source], depth: int) -> str:
        choose = self.random
        if depth <= 0 or choose.random() < 0.4:
            places = [(alias, name) for alias, names in scope for name in names]
            if not places or choose.random() < 0.1:
                return choose.choice(("1", "'k'", "now()"))
            alias, name = choose.choice(places)
            return choose.choice((f"{alias}.{name}", name, f"({alias}).{name}", f"{alias}.{name}", alias))
        shape = choose.choice(
            (
                "upper(({})::text)", "(({})::text || 'x')", "coalesce(({})::text, 'z')", "ARRAY[({})::text]",
                "CASE WHEN true THEN ({})::text END", "ROW({}, 1)", "to_json({})", "(SELECT {} LIMIT 1)",
                "max(({})::text) OVER ()", "concat({}, 'q')", "jsonb_build_object('k', {})", "(({})::text).upper",
                "format('%s', {})", "greatest(({})::text, 'A')", "(SELECT (*) LIMIT 1)", "ARRAY(*)",
            )
        )  # fmt: skip
        if "*" in shape:
            return shape.replace("*", self.query(scope, depth - 1, 1)[0])
        return shape.replace("{}", self._expression(scope, depth - 1))
