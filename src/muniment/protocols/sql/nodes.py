"""PostgreSQL's raw parse tree as libpg_query gives it in JSON: which nodes there are, and what we call the objects.

A node stands as {"SelectStmt": {...}}; where a field can only hold one kind of node, the name is left out, and `BARE`
says which it is. Fields at their default are left out. A node that is not named here makes a text incomplete.
Source: PostgreSQL 17, src/include/nodes/parsenodes.h and primnodes.h.
"""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]


def words(text: str) -> frozenset[str]:
    """The words of a text: a long set that can be read."""
    return frozenset(text.split())


# Nodes that do nothing by themselves: what they are made of is what counts.
PLAIN = words(
    """
    A_ArrayExpr A_Const A_Indices A_Star Alias BitString BoolExpr Boolean BooleanTest CaseExpr CaseWhen CoalesceExpr
    CollateClause ColumnDef CTECycleClause CTESearchClause CurrentOfExpr DefElem Float FunctionParameter
    GroupingFunc GroupingSet IndexElem InferClause Integer IntList JsonAggConstructor JsonArgument JsonBehavior
    JsonFormat JsonIsPredicate JsonKeyValue JsonOutput JsonReturning JsonTableColumn JsonTablePathSpec JsonValueExpr
    List MinMaxExpr MultiAssignRef NamedArgExpr NullTest ObjectWithArgs ParamRef PartitionBoundSpec PartitionCmd
    PartitionElem PartitionRangeDatum PartitionSpec RangeTableFuncCol ReplicaIdentityStmt ResTarget ReturnStmt
    RoleSpec RowExpr SetToDefault SQLValueFunction StatsElem String TriggerTransition TypeCast TypeName
    VacuumRelation WindowDef XmlExpr XmlSerialize AccessPriv AlterTableCmd ATAlterConstraint CreateOpClassItem
    PublicationObjSpec PublicationTable
    """
)

# Fields whose node's name is left out, and the name.
BARE = {
    "relation": "RangeVar",
    "rel": "RangeVar",
    "view": "RangeVar",
    "table": "RangeVar",
    "sequence": "RangeVar",
    "typevar": "RangeVar",
    "pktable": "RangeVar",
    "constrrel": "RangeVar",
    "identitySequence": "RangeVar",
    "name": "RangeVar",  # PartitionCmd; ObjectWithArgs in CreateOpClassItem, which is read apart
    "larg": "SelectStmt",
    "rarg": "SelectStmt",
    "val": "JsonValueExpr",
    "expr": "JsonValueExpr",
    "value": "JsonValueExpr",
    "context_item": "JsonValueExpr",
    "arg": "JsonValueExpr",  # JsonArrayAgg; JsonKeyValue in JsonObjectAgg: both plain
    "constructor": "JsonAggConstructor",
    "output": "JsonOutput",
    "returning": "JsonReturning",
    "format": "JsonFormat",
    "on_empty": "JsonBehavior",
    "on_error": "JsonBehavior",
    "pathspec": "JsonTablePathSpec",
    "alias": "Alias",
    "join_using_alias": "Alias",
    "typeName": "TypeName",
    "type_name": "TypeName",
    "ofTypename": "TypeName",
    "returnType": "TypeName",
    "argType": "TypeName",
    "sourcetype": "TypeName",
    "targettype": "TypeName",
    "datatype": "TypeName",
    "storedtype": "TypeName",
    "over": "WindowDef",
    "collClause": "CollateClause",
    "infer": "InferClause",
    "partbound": "PartitionBoundSpec",
    "bound": "PartitionBoundSpec",
    "partspec": "PartitionSpec",
    "search_clause": "CTESearchClause",
    "cycle_clause": "CTECycleClause",
    "newowner": "RoleSpec",
    "authrole": "RoleSpec",
    "grantor": "RoleSpec",
    "owner": "RoleSpec",
    "user": "RoleSpec",
    "role": "RoleSpec",
    "newrole": "RoleSpec",
    "pubtable": "PublicationTable",
    "func": "ObjectWithArgs",
    "opername": "ObjectWithArgs",
    "fromsql": "ObjectWithArgs",
    "tosql": "ObjectWithArgs",
    "ival": "Integer",
    "fval": "Float",
    "boolval": "Boolean",
    "sval": "String",
    "bsval": "BitString",
    "extname": "String",
}

# Kinds of object, as they stand in touches.
KINDS = {
    "OBJECT_ACCESS_METHOD": "access-method",
    "OBJECT_AGGREGATE": "aggregate",
    "OBJECT_ATTRIBUTE": "column",
    "OBJECT_CAST": "cast",
    "OBJECT_COLLATION": "collation",
    "OBJECT_COLUMN": "column",
    "OBJECT_CONVERSION": "conversion",
    "OBJECT_DATABASE": "database",
    "OBJECT_DOMAIN": "domain",
    "OBJECT_DOMCONSTRAINT": "constraint",
    "OBJECT_EVENT_TRIGGER": "event-trigger",
    "OBJECT_EXTENSION": "extension",
    "OBJECT_FDW": "foreign-data-wrapper",
    "OBJECT_FOREIGN_SERVER": "server",
    "OBJECT_FOREIGN_TABLE": "foreign-table",
    "OBJECT_FUNCTION": "function",
    "OBJECT_INDEX": "index",
    "OBJECT_LANGUAGE": "language",
    "OBJECT_LARGEOBJECT": "large-object",
    "OBJECT_MATVIEW": "materialized-view",
    "OBJECT_OPCLASS": "operator-class",
    "OBJECT_OPERATOR": "operator",
    "OBJECT_OPFAMILY": "operator-family",
    "OBJECT_PARAMETER_ACL": "setting",
    "OBJECT_POLICY": "policy",
    "OBJECT_PROCEDURE": "procedure",
    "OBJECT_PUBLICATION": "publication",
    "OBJECT_ROLE": "role",
    "OBJECT_ROUTINE": "function",
    "OBJECT_RULE": "rule",
    "OBJECT_SCHEMA": "schema",
    "OBJECT_SEQUENCE": "sequence",
    "OBJECT_STATISTIC_EXT": "statistics",
    "OBJECT_SUBSCRIPTION": "subscription",
    "OBJECT_TABCONSTRAINT": "constraint",
    "OBJECT_TABLE": "table",
    "OBJECT_TABLESPACE": "tablespace",
    "OBJECT_TRANSFORM": "transform",
    "OBJECT_TRIGGER": "trigger",
    "OBJECT_TSCONFIGURATION": "text-search-configuration",
    "OBJECT_TSDICTIONARY": "text-search-dictionary",
    "OBJECT_TSPARSER": "text-search-parser",
    "OBJECT_TSTEMPLATE": "text-search-template",
    "OBJECT_TYPE": "type",
    "OBJECT_VIEW": "view",
}

RELATIONS = words("table view materialized-view sequence foreign-table")  # the kinds that the catalog holds
CALLABLES = words("function procedure aggregate")
OF_A_TABLE = words("trigger rule policy column constraint")

# Operators of pg_catalog (PostgreSQL 12 to 18). Any other is somebody's own, and so is the function behind it.
OPERATORS = words(
    """
    + - * / % ^ |/ ||/ @ & | # ~ << >> < <= <> != = >= > || ~~ !~~ ~~* !~~* ~ !~ ~* !~* ~=~ ^@ ~<~ ~<=~ ~>=~ ~>~
    && &< &> &<| |&> <<| |>> -|- @> <@ ?| ?& ? -> ->> #> #>> #- @? @@ @@@ !! <-> <^ >^ ?# ?- ?-| ?|| ## @-@ @@ *= *<>
    *< *> *<= *>= ~= <<= >>= !!= ~>=~ <?> ~* => :=
    """
)


def strings(nodes: list[Node] | None) -> list[str]:
    """The texts of a list of String nodes; a star as "*". Other nodes are left out."""
    found: list[str] = []
    for node in nodes or ():
        if "String" in node:
            found.append(str(node["String"].get("sval", "")))
        elif "A_Star" in node:
            found.append("*")
    return found


def constant(node: Node | None) -> str | None:
    """The text of a string constant, a cast of one included; None for everything else."""
    while node and "TypeCast" in node:
        node = node["TypeCast"].get("arg")
    value = node.get("A_Const", {}).get("sval") if node else None
    return str(value.get("sval", "")) if isinstance(value, dict) else None
