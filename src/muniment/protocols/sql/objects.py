"""DROP, COMMENT, RENAME, SET SCHEMA, OWNER, GRANT and their kin: statements about an object of whatever kind."""

from __future__ import annotations

from muniment.protocols.sql.gather import Gather, Handler, Scope
from muniment.protocols.sql.nodes import CALLABLES, KINDS, OF_A_TABLE, RELATIONS, Node, strings
from muniment.protocols.sql.reading import How


def target(p: Gather, objtype: str, verb: str, node: Node) -> None:
    """Record the object of DROP, COMMENT, ALTER ... OWNER and so on, in whatever form the grammar gives its name."""
    kind = KINDS.get(objtype)
    if kind is None:
        p.refuse(f"objects of the type {objtype} are not read")
        return
    if "ObjectWithArgs" in node:
        how = How.FUNCTION if kind in CALLABLES else How.OBJECT
        p.named(kind, verb, strings(node["ObjectWithArgs"].get("objname")), how=how)
    elif "TypeName" in node:
        p.named(kind, verb, strings(node["TypeName"].get("names")))
    elif "RangeVar" in node:
        p.relation(kind, verb, node["RangeVar"])
    elif "List" in node:
        _listed(p, kind, objtype, verb, node["List"].get("items", []))
    elif "String" in node:
        p.use(kind, verb, node["String"].get("sval", ""))
    elif "Integer" in node or "Float" in node:
        value = node.get("Integer", {}).get("ival", 0) if "Integer" in node else node["Float"].get("fval", "")
        p.use(kind, verb, str(value))
    else:
        p.refuse(f"the name of a {kind} in a form that is not read")


def _listed(p: Gather, kind: str, objtype: str, verb: str, items: list[Node]) -> None:
    names = strings(items)
    if objtype in ("OBJECT_CAST", "OBJECT_TRANSFORM", "OBJECT_DOMCONSTRAINT"):
        types = [".".join(strings(item.get("TypeName", {}).get("names"))) for item in items if "TypeName" in item]
        p.use(kind, verb, " ".join([*types, *names]))
    elif len(names) != len(items):
        p.refuse(f"the name of a {kind} in a form that is not read")
    elif kind in OF_A_TABLE and len(names) > 1:
        p.named(kind, verb, names[:-1], how=How.CHILD, sub=names[-1])
        if kind in ("trigger", "rule", "policy"):
            p.named("table", "alter", names[:-1], how=How.RELATION)
    elif objtype in ("OBJECT_OPCLASS", "OBJECT_OPFAMILY"):
        p.named(kind, verb, names[1:])
    else:
        p.named(kind, verb, names, how=How.RELATION if kind in RELATIONS else How.OBJECT)


def _drop(p: Gather, body: Node) -> None:
    for node in body.get("objects", ()):
        target(p, body.get("removeType", ""), "drop", node)


def _comment(verb: str) -> Handler:
    def handler(p: Gather, body: Node) -> None:
        target(p, body.get("objtype", ""), verb, body.get("object", {}))

    return handler


def _rename(p: Gather, body: Node) -> None:
    """RENAME. The new name counts as created: it may be one that a rule speaks of."""
    objtype, new = body.get("renameType", ""), body.get("newname", "")
    var = body.get("relation")
    if var is None:
        _rename_object(p, objtype, body, new)
        return
    kind = KINDS.get(objtype, "")
    if kind in RELATIONS or kind == "index":
        if kind == "index":
            p.named("index", "alter", parts(var))
            p.named("index", "create", [*parts(var)[:-1], new])
        else:
            p.relation(kind, "alter", var)
            p.relation(kind, "create", var, how=How.BESIDE, sub=new)
    elif kind in OF_A_TABLE:
        p.relation("table", "alter", var)
        p.relation(kind, "alter", var, how=How.CHILD, sub=body.get("subname", ""))
        p.relation(kind, "create", var, how=How.CHILD, sub=new)
    else:
        p.refuse("a form of RENAME that is not read")


def _rename_object(p: Gather, objtype: str, body: Node, new: str) -> None:
    kind, node = KINDS.get(objtype, "object"), body.get("object")
    if node is None:
        p.use(kind, "alter", body.get("subname", ""))
        p.use(kind, "create", new)
        return
    target(p, objtype, "alter", node)
    if "String" in node:
        p.use(kind, "create", new)
        return
    lists = node.get("ObjectWithArgs", {}).get("objname") or node.get("List", {}).get("items")
    p.named(kind, "create", [*strings(lists)[:-1], new])


def parts(var: Node) -> list[str]:
    """The parts of a relation's name, as far as they are written."""
    return [var[key] for key in ("catalogname", "schemaname", "relname") if var.get(key)]


def _move(p: Gather, body: Node) -> None:
    """SET SCHEMA: the object appears under a new full name."""
    objtype, schema = body.get("objectType", ""), body.get("newschema", "")
    kind = KINDS.get(objtype, "object")
    var = body.get("relation")
    if var is not None:
        p.relation(kind, "alter", var)
        p.use(kind, "create", var.get("relname", ""), schema=schema, how=How.CREATE)
    else:
        target(p, objtype, "alter", body.get("object", {}))
        p.use("schema", "create", schema)


def _owner(p: Gather, body: Node) -> None:
    objtype = body.get("objectType", "")
    if "relation" in body:
        p.relation(KINDS.get(objtype, "table"), "alter", body["relation"])
    else:
        target(p, objtype, "alter", body.get("object", {}))
    p.traits.add("owner")


def _depends(p: Gather, body: Node) -> None:
    objtype = body.get("objectType", "")
    if "relation" in body:
        p.relation("table", "alter", body["relation"])
    if "object" in body:
        target(p, objtype, "alter", body["object"])
    p.use("extension", "alter", body.get("extname", {}).get("sval", ""))


def _grant(p: Gather, body: Node) -> None:
    verb = "grant" if body.get("is_grant") else "revoke"
    where = body.get("targtype", "ACL_TARGET_OBJECT")
    objtype = body.get("objtype", "")
    if where == "ACL_TARGET_ALL_IN_SCHEMA":
        for schema in strings(body.get("objects")):
            p.use(KINDS.get(objtype, "object"), verb, "*", schema=schema, how=How.OBJECT)
    elif where == "ACL_TARGET_DEFAULTS":
        p.use("default-privileges", verb, KINDS.get(objtype, "object"))
    else:
        for node in body.get("objects", ()):
            target(p, objtype, verb, node)


def _default_privileges(p: Gather, body: Node) -> None:
    _grant(p, body.get("action", {}))
    p.rest(body, Scope(), "action")


def _grant_role(p: Gather, body: Node) -> None:
    verb = "grant" if body.get("is_grant") else "revoke"
    for node in body.get("granted_roles", ()):
        p.use("role", verb, node.get("AccessPriv", {}).get("priv_name", "?"))


def _contents(p: Gather, body: Node) -> None:
    p.use("extension", "alter", body.get("extname", ""))
    target(p, body.get("objtype", ""), "alter", body.get("object", {}))


HANDLERS: dict[str, Handler] = {
    "DropStmt": _drop,
    "RenameStmt": _rename,
    "AlterObjectSchemaStmt": _move,
    "AlterOwnerStmt": _owner,
    "AlterObjectDependsStmt": _depends,
    "AlterExtensionContentsStmt": _contents,
    "GrantStmt": _grant,
    "GrantRoleStmt": _grant_role,
    "AlterDefaultPrivilegesStmt": _default_privileges,
}

# These say something about an object and leave the meaning of every name as it was.
LEAVING: dict[str, Handler] = {"CommentStmt": _comment("comment"), "SecLabelStmt": _comment("label")}
