"""CREATE and ALTER: which objects they make and change. With `objects`, every statement that defines."""

from __future__ import annotations

from collections.abc import Iterable

from muniment.protocols.sql import objects, settings
from muniment.protocols.sql.gather import Found, Gather, Handler, Scope
from muniment.protocols.sql.nodes import KINDS, RELATIONS, Node, strings
from muniment.protocols.sql.queries import into_clause
from muniment.protocols.sql.reading import How, Mode, Rows


def define(handler: Handler) -> Handler:
    """A definition changes what names mean; relations in it that are not its object are altered with it."""

    def wrapped(p: Gather, body: Node) -> None:
        p.changes_names = True
        p.loose = ("table", "alter")
        handler(p, body)
        if body.get("behavior") == "DROP_CASCADE":
            p.traits.add("cascade")

    return wrapped


def _create_table(kind: str) -> Handler:
    def handler(p: Gather, body: Node) -> None:
        base = body.get("base", body)
        p.relation(kind, "create", base.get("relation", {}), how=How.CREATE)
        p.rest(base, Scope(), "relation")
        if base is not body:
            p.use("server", "alter", body.get("servername", ""))
            p.rest(body, Scope(), "base")

    return handler


def _create_as(p: Gather, body: Node) -> None:
    kind = KINDS.get(body.get("objtype", ""), "table")
    query = body.get("query", {})
    if "ExecuteStmt" in query:
        name = query["ExecuteStmt"].get("name", "")
        p.rest(query["ExecuteStmt"], Scope())
        p.refer("prepared", name, Mode.TOUCHES)
        p.copies_rows = True
    else:
        p.statement(query)
    p.rows, p.outputs = Rows.NO, None
    into_clause(p, body.get("into", {}), Scope(), kind)
    p.rest(body, Scope(), "query", "into")


def _view(p: Gather, body: Node) -> None:
    """CREATE VIEW. It shows what it reads under another name, so that counts as read and copied."""
    p.relation("view", "create", body.get("view", {}), how=How.CREATE)
    p.statement(body.get("query", {}))
    p.rows, p.outputs, p.reads_only, p.by_shape = Rows.NO, None, False, False
    p.copies_rows = p.read > 0
    p.rest(body, Scope(), "view", "query")


def _alter_table(p: Gather, body: Node) -> None:
    kind = KINDS.get(body.get("objtype", ""), "")
    var = body.get("relation", {})
    if kind == "index":
        p.named("index", "alter", objects.parts(var))
    elif kind == "type":
        p.named("type", "alter", objects.parts(var))
    elif kind in RELATIONS:
        p.relation(kind, "alter", var)
    else:
        p.refuse("a form of ALTER that is not read")
    for node in body.get("cmds", ()):
        cmd = node.get("AlterTableCmd", {})
        if cmd.get("subtype") in ("AT_DropColumn", "AT_DropConstraint") and kind in RELATIONS:
            what = "column" if cmd["subtype"] == "AT_DropColumn" else "constraint"
            p.relation(what, "drop", var, how=How.CHILD, sub=cmd.get("name", ""))
        if cmd.get("behavior") == "DROP_CASCADE":
            p.traits.add("cascade")
        if cmd.get("subtype") == "AT_ChangeOwner":
            p.traits.add("owner")
    p.rest(body, Scope(), "relation")


def _index(p: Gather, body: Node) -> None:
    var = body.get("relation", {})
    p.relation("index", "create", var, how=How.BESIDE, sub=body.get("idxname") or var.get("relname", ""))
    p.relation("table", "alter", var)
    for nodes in body.get("excludeOpNames", ()):
        p.operator(nodes.get("List", {}).get("items"))
    p.rest(body, Scope(), "relation", "excludeOpNames")


def _of_table(kind: str, verb: str, name: str, table: str) -> Handler:
    """Triggers, rules and policies: made on a table, whose meaning they change."""

    def handler(p: Gather, body: Node) -> None:
        var = body.get(table, {})
        p.relation(kind, verb, var, how=How.CHILD, sub=body.get(name, ""))
        p.relation("table", "alter", var)
        if kind == "trigger":
            p.call(strings(body.get("funcname")))
        if kind == "rule":
            for action in body.get("actions", ()):
                p.statement(action)
            p.rows, p.outputs, p.reads_only, p.by_shape = Rows.NO, None, False, False
            p.copies_rows = p.read > 0
            p.traits.add("rule")
        p.rest(body, Scope(), table, "funcname", "actions")

    return handler


def _function(p: Gather, body: Node) -> None:
    """CREATE FUNCTION: its body is not read here; whoever calls it is judged by its name."""
    kind = "procedure" if body.get("is_procedure") else "function"
    p.named(kind, "create", strings(body.get("funcname")), how=How.CREATE)
    p.traits.add("opaque")
    _options(p, body.get("options", ()))
    if "sql_body" in body:
        _body(p, body["sql_body"])
    p.rest(body, Scope(), "funcname", "options", "sql_body")


def _body(p: Gather, node: Node) -> None:
    """The statements of a function body in standard SQL."""
    if "List" in node:
        for item in node["List"].get("items", ()):
            _body(p, item)
    elif "ReturnStmt" in node:
        p.walk(node, Scope())
    elif node:
        p.statement(node)
    p.rows, p.outputs, p.reads_only, p.by_shape = Rows.NO, None, False, False


def _options(p: Gather, nodes: Iterable[Node]) -> None:
    """What a function is made or altered with; SET in it changes a setting whenever it runs."""
    for node in nodes:
        option = node.get("DefElem", {})
        if option.get("defname") == "set":
            settings.variable(p, option.get("arg", {}).get("VariableSetStmt", {}), verb="alter")
        else:
            p.walk(node, Scope())


def _alter_function(p: Gather, body: Node) -> None:
    objects.target(p, body.get("objtype", ""), "alter", {"ObjectWithArgs": body.get("func", {})})
    _options(p, body.get("actions", ()))


def _fixed(kind: str, verb: str, name: str, *, trait: str = "") -> Handler:
    """A statement whose object is named by a plain field and stands in no schema."""

    def handler(p: Gather, body: Node) -> None:
        p.use(kind, verb, str(body.get(name, "")))
        if trait:
            p.traits.add(trait)
        p.rest(body, Scope(), name)

    return handler


def _named(kind: str, verb: str, names: str, how: How) -> Handler:
    """A statement whose object is named by a list of name parts."""

    def handler(p: Gather, body: Node) -> None:
        p.named(kind, verb, strings(body.get(names)), how=how)
        p.rest(body, Scope(), names)

    return handler


def _relation(kind: str, verb: str, name: str, how: How) -> Handler:
    """A statement whose object is named like a relation."""

    def handler(p: Gather, body: Node) -> None:
        p.relation(kind, verb, body.get(name, {}), how=how)
        p.rest(body, Scope(), name)

    return handler


def _defined(p: Gather, body: Node) -> None:
    """CREATE AGGREGATE, OPERATOR, TYPE, COLLATION, TEXT SEARCH ...; the functions behind them are named in it."""
    p.named(KINDS.get(body.get("kind", ""), "object"), "create", strings(body.get("defnames")), how=How.CREATE)
    p.traits.add("opaque")
    p.rest(body, Scope(), "defnames")


def _role_name(spec: Node) -> str:
    return str(spec.get("rolename") or spec.get("roletype", "?").removeprefix("ROLESPEC_").lower())


def _role(verb: str, field: str) -> Handler:
    def handler(p: Gather, body: Node) -> None:
        value = body.get(field)
        specs = value if isinstance(value, list) else [{"RoleSpec": value}]
        for spec in specs:
            p.use("role", verb, _role_name(spec.get("RoleSpec") or {}) if not isinstance(value, str) else value)

    return handler


def _owned(verb: str) -> Handler:
    def handler(p: Gather, body: Node) -> None:
        for spec in body.get("roles", ()):
            p.use("owned", verb, _role_name(spec.get("RoleSpec", {})))

    return handler


def _role_set(p: Gather, body: Node) -> None:
    p.use("role", "alter", _role_name(body["role"]) if "role" in body else "all")
    settings.variable(p, body.get("setstmt", {}), verb="alter")


def _database_set(p: Gather, body: Node) -> None:
    p.use("database", "alter", body.get("dbname", ""))
    settings.variable(p, body.get("setstmt", {}), verb="alter")


def _system(p: Gather, body: Node) -> None:
    p.use("server", "alter", "server")
    settings.variable(p, body.get("setstmt", {}), verb="alter")


def _mapping(verb: str) -> Handler:
    def handler(p: Gather, body: Node) -> None:
        p.use("user-mapping", verb, f"{_role_name(body.get('user', {}))}@{body.get('servername', '')}")

    return handler


def _schema(p: Gather, body: Node) -> None:
    p.use("schema", "create", body.get("schemaname") or _role_name(body.get("authrole", {})))
    if body.get("schemaElts"):
        p.refuse("CREATE SCHEMA with other definitions in it is not read: create them on their own")


def _domain(p: Gather, body: Node) -> None:
    p.named("domain", "create", strings(body.get("domainname")), how=How.CREATE)
    p.rest(body, Scope(), "domainname")


def _cast(p: Gather, body: Node) -> None:
    types = [".".join(strings(body.get(side, {}).get("names"))) for side in ("sourcetype", "targettype")]
    p.use("cast", "create", " ".join(types))
    if "func" in body:
        p.call(strings(body["func"].get("objname")))


def _opclass(p: Gather, body: Node) -> None:
    p.named("operator-class", "create", strings(body.get("opclassname")), how=How.CREATE)
    p.traits.add("opaque")


def _opfamily(verb: str, how: How) -> Handler:
    def handler(p: Gather, body: Node) -> None:
        p.named("operator-family", verb, strings(body.get("opfamilyname")), how=how)
        p.traits.add("opaque")

    return handler


def _event_trigger(p: Gather, body: Node) -> None:
    p.use("event-trigger", "create", body.get("trigname", ""))
    p.call(strings(body.get("funcname")))
    p.rest(body, Scope(), "funcname")


_DEFINING: dict[str, Handler] = {
    "CreateStmt": _create_table("table"),
    "CreateForeignTableStmt": _create_table("foreign-table"),
    "CreateTableAsStmt": _create_as,
    "ViewStmt": _view,
    "AlterTableStmt": _alter_table,
    "AlterTableMoveAllStmt": _fixed("tablespace", "alter", "orig_tablespacename"),
    "IndexStmt": _index,
    "CreateTrigStmt": _of_table("trigger", "create", "trigname", "relation"),
    "RuleStmt": _of_table("rule", "create", "rulename", "relation"),
    "CreatePolicyStmt": _of_table("policy", "create", "policy_name", "table"),
    "AlterPolicyStmt": _of_table("policy", "alter", "policy_name", "table"),
    "CreateFunctionStmt": _function,
    "AlterFunctionStmt": _alter_function,
    "CreateSchemaStmt": _schema,
    "CreateSeqStmt": _relation("sequence", "create", "sequence", How.CREATE),
    "AlterSeqStmt": _relation("sequence", "alter", "sequence", How.RELATION),
    "CompositeTypeStmt": _relation("type", "create", "typevar", How.CREATE),
    "CreateEnumStmt": _named("type", "create", "typeName", How.CREATE),
    "CreateRangeStmt": _named("type", "create", "typeName", How.CREATE),
    "AlterEnumStmt": _named("type", "alter", "typeName", How.OBJECT),
    "AlterTypeStmt": _named("type", "alter", "typeName", How.OBJECT),
    "AlterDomainStmt": _named("domain", "alter", "typeName", How.OBJECT),
    "CreateDomainStmt": _domain,
    "DefineStmt": _defined,
    "AlterOperatorStmt": lambda p, body: objects.target(
        p, "OBJECT_OPERATOR", "alter", {"ObjectWithArgs": body["opername"]}
    ),
    "CreateOpClassStmt": _opclass,
    "CreateOpFamilyStmt": _opfamily("create", How.CREATE),
    "AlterOpFamilyStmt": _opfamily("alter", How.OBJECT),
    "CreateCastStmt": _cast,
    "CreateConversionStmt": _named("conversion", "create", "conversion_name", How.CREATE),
    "CreateTransformStmt": _fixed("transform", "create", "lang", trait="opaque"),
    "CreateStatsStmt": _named("statistics", "create", "defnames", How.CREATE),
    "AlterStatsStmt": _named("statistics", "alter", "defnames", How.OBJECT),
    "AlterCollationStmt": _named("collation", "alter", "collname", How.OBJECT),
    "AlterTSDictionaryStmt": _named("text-search-dictionary", "alter", "dictname", How.OBJECT),
    "AlterTSConfigurationStmt": _named("text-search-configuration", "alter", "cfgname", How.OBJECT),
    "CreateExtensionStmt": _fixed("extension", "create", "extname", trait="opaque"),
    "AlterExtensionStmt": _fixed("extension", "alter", "extname", trait="opaque"),
    "CreateFdwStmt": _fixed("foreign-data-wrapper", "create", "fdwname"),
    "AlterFdwStmt": _fixed("foreign-data-wrapper", "alter", "fdwname"),
    "CreateForeignServerStmt": _fixed("server", "create", "servername"),
    "AlterForeignServerStmt": _fixed("server", "alter", "servername"),
    "CreateUserMappingStmt": _mapping("create"),
    "AlterUserMappingStmt": _mapping("alter"),
    "DropUserMappingStmt": _mapping("drop"),
    "ImportForeignSchemaStmt": _fixed("schema", "import", "local_schema", trait="opaque"),
    "CreateAmStmt": _fixed("access-method", "create", "amname", trait="opaque"),
    "CreatePLangStmt": _fixed("language", "create", "plname", trait="opaque"),
    "CreateEventTrigStmt": _event_trigger,
    "AlterEventTrigStmt": _fixed("event-trigger", "alter", "trigname"),
    "CreateTableSpaceStmt": _fixed("tablespace", "create", "tablespacename"),
    "DropTableSpaceStmt": _fixed("tablespace", "drop", "tablespacename"),
    "AlterTableSpaceOptionsStmt": _fixed("tablespace", "alter", "tablespacename"),
    "CreatePublicationStmt": _fixed("publication", "create", "pubname"),
    "AlterPublicationStmt": _fixed("publication", "alter", "pubname"),
    "CreateSubscriptionStmt": _fixed("subscription", "create", "subname"),
    "AlterSubscriptionStmt": _fixed("subscription", "alter", "subname"),
    "DropSubscriptionStmt": _fixed("subscription", "drop", "subname"),
    "CreatedbStmt": _fixed("database", "create", "dbname"),
    "AlterDatabaseStmt": _fixed("database", "alter", "dbname"),
    "AlterDatabaseRefreshCollStmt": _fixed("database", "alter", "dbname"),
    "AlterDatabaseSetStmt": _database_set,
    "DropdbStmt": _fixed("database", "drop", "dbname"),
    "CreateRoleStmt": _role("create", "role"),
    "AlterRoleStmt": _role("alter", "role"),
    "AlterRoleSetStmt": _role_set,
    "DropRoleStmt": _role("drop", "roles"),
    "DropOwnedStmt": _owned("drop"),
    "ReassignOwnedStmt": _owned("reassign"),
    "AlterSystemStmt": _system,
}


def constraint(p: Gather, body: Node, scope: Scope) -> Found:
    """A constraint: the table that a foreign key points to, the operators of an exclusion."""
    if "pktable" in body:
        p.relation("table", "references", body["pktable"])
    for entry in body.get("exclusions", ()):
        for item in entry.get("List", {}).get("items", ()):
            p.operator(item.get("List", {}).get("items"))
    return p.rest(body, scope, "pktable")


def like(p: Gather, body: Node, scope: Scope) -> Found:
    """CREATE TABLE (LIKE other): the server asks for the right to select from it."""
    p.relation("relation", "select", body.get("relation", {}))
    return p.rest(body, scope, "relation")


HANDLERS: dict[str, Handler] = {
    **{kind: define(handler) for kind, handler in {**objects.HANDLERS, **_DEFINING}.items()},
    **objects.LEAVING,
}
