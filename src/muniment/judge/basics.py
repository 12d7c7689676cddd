"""What every grant with `basics: client` lets an identity do besides: what drivers and psql need to make their
connection and to look things up.

It lists what is let in, by name; whatever is not in it needs a grant. Never in it: credentials, other sessions'
statements, samples of rows (statistics), large objects, files, functions that run a text, waiting, signals and locks
that outlast a statement. The lists hold what PostgreSQL 12 to 18 have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

from muniment.judge import globs
from muniment.model.exchange import Touch

POSTGRES_CLIENT = ("postgres", "client")

# They compute from what they are given, describe the catalog, or tell about the session itself. `set_config` and
# `current_setting` count as SET and SHOW of the setting that they name.
_FUNCTIONS = """
    abbrev abs acldefault aclexplode acos acosd acosh age any_value area array_agg array_append array_cat
    array_dims array_fill array_length array_lower array_ndims array_position array_positions array_prepend
    array_remove array_replace array_reverse array_sample array_shuffle array_sort array_to_json array_to_string
    array_to_tsvector array_upper ascii asin asind asinh atan atan2 atan2d atand atanh avg bernoulli bit bit_and
    bit_count bit_length bit_or bit_xor bool bool_and bool_or box bpchar broadcast btrim bytea cardinality
    casefold cbrt ceil ceiling center char char_length character_length chr cidr circle clock_timestamp
    col_description concat concat_ws convert convert_from convert_to corr cos cosd cosh cot cotd count covar_pop
    covar_samp crc32 crc32c cume_dist current_database current_query current_schema current_schemas
    current_setting current_user date date_add date_bin date_part date_subtract date_trunc datemultirange
    daterange decode degrees dense_rank diagonal diameter div encode enum_first enum_last enum_range erf erfc
    every exp extract factorial family first_value float4 float8 floor format format_type gamma gcd
    gen_random_uuid generate_series generate_subscripts get_bit get_byte get_current_ts_config
    getdatabaseencoding getpgusername has_any_column_privilege has_column_privilege has_database_privilege
    has_foreign_data_wrapper_privilege has_function_privilege has_language_privilege has_largeobject_privilege
    has_schema_privilege has_sequence_privilege has_server_privilege has_table_privilege
    has_tablespace_privilege has_type_privilege hashtext hashtextextended height host hostmask
    icu_unicode_version inet_client_addr inet_client_port inet_merge inet_same_family inet_server_addr
    inet_server_port initcap int2 int4 int4multirange int4range int8 int8multirange int8range interval
    is_normalized isclosed isempty isfinite json_agg json_agg_strict json_array_elements
    json_array_elements_text json_array_length json_build_array json_build_object json_each json_each_text
    json_object json_object_agg json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict
    json_object_keys json_populate_record json_populate_recordset json_strip_nulls json_to_record
    json_to_recordset json_to_tsvector json_typeof jsonb_agg jsonb_agg_strict jsonb_array_elements
    jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each jsonb_each_text
    jsonb_insert jsonb_object jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique
    jsonb_object_agg_unique_strict jsonb_object_keys jsonb_path_exists jsonb_path_exists_tz jsonb_path_match
    jsonb_path_match_tz jsonb_path_query jsonb_path_query_array jsonb_path_query_array_tz jsonb_path_query_first
    jsonb_path_query_first_tz jsonb_path_query_tz jsonb_populate_record jsonb_populate_record_valid
    jsonb_populate_recordset jsonb_pretty jsonb_set jsonb_set_lax jsonb_strip_nulls jsonb_to_record
    jsonb_to_recordset jsonb_to_tsvector jsonb_typeof justify_days justify_hours justify_interval lag last_value
    lcm lead left length lgamma like_escape line ln log log10 lower lower_inc lower_inf lpad lseg ltrim macaddr
    macaddr8 make_date make_interval make_time make_timestamp make_timestamptz makeaclitem masklen max md5 min
    min_scale mod mode money multirange name netmask network normalize now npoints nth_value ntile num_nonnulls
    num_nulls numeric numeric_div_trunc nummultirange numnode numrange obj_description octet_length oid
    oidvectortypes overlaps overlay parse_ident path percent_rank percentile_cont percentile_disc
    pg_advisory_unlock_all pg_available_extension_versions pg_available_extensions pg_backend_pid pg_basetype
    pg_char_to_encoding pg_client_encoding pg_collation_for pg_collation_is_visible pg_column_compression
    pg_column_is_updatable pg_column_size pg_conversion_is_visible pg_current_snapshot pg_current_wal_lsn
    pg_current_xact_id pg_current_xact_id_if_assigned pg_database_size pg_describe_object pg_encoding_max_length
    pg_encoding_to_char pg_function_is_visible pg_get_acl pg_get_catalog_foreign_keys pg_get_constraintdef
    pg_get_expr pg_get_function_arg_default pg_get_function_arguments pg_get_function_identity_arguments
    pg_get_function_result pg_get_function_sqlbody pg_get_functiondef pg_get_indexdef pg_get_keywords
    pg_get_object_address pg_get_partition_constraintdef pg_get_partkeydef pg_get_publication_tables
    pg_get_replica_identity_index pg_get_ruledef pg_get_serial_sequence pg_get_statisticsobjdef
    pg_get_statisticsobjdef_columns pg_get_statisticsobjdef_expressions pg_get_triggerdef pg_get_userbyid
    pg_get_viewdef pg_has_role pg_index_column_has_property pg_index_has_property pg_indexam_has_property
    pg_indexes_size pg_input_is_valid pg_is_in_recovery pg_is_other_temp_schema pg_jit_available
    pg_listening_channels pg_my_temp_schema pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible
    pg_options_to_table pg_partition_ancestors pg_partition_root pg_partition_tree pg_postmaster_start_time
    pg_relation_filenode pg_relation_is_publishable pg_relation_is_updatable pg_relation_size
    pg_settings_get_flags pg_size_bytes pg_size_pretty pg_snapshot_xip pg_snapshot_xmax pg_snapshot_xmin
    pg_statistics_obj_is_visible pg_table_is_visible pg_table_size pg_tablespace_location pg_tablespace_size
    pg_total_relation_size pg_trigger_depth pg_ts_config_is_visible pg_ts_dict_is_visible
    pg_ts_parser_is_visible pg_ts_template_is_visible pg_type_is_visible pg_typeof pg_visible_in_snapshot
    phraseto_tsquery pi plainto_tsquery point polygon position pow power quote_ident quote_literal
    quote_nullable radians radius random random_normal range_agg range_intersect_agg range_merge rank regclass
    regexp_count regexp_instr regexp_like regexp_match regexp_matches regexp_replace regexp_split_to_array
    regexp_split_to_table regexp_substr regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope
    regr_sxx regr_sxy regr_syy repeat replace reverse right round row_number row_security_active row_to_json
    rpad rtrim scale session_user set_bit set_byte set_config set_masklen setseed setweight sha224 sha256 sha384
    sha512 shobj_description sign similar_escape similar_to_escape sin sind sinh slope split_part sqrt
    starts_with statement_timestamp stddev stddev_pop stddev_samp string_agg string_to_array string_to_table
    strip strpos substr substring sum system system_user tan tand tanh text time timeofday timestamp timestamptz
    timetz timezone to_ascii to_bin to_char to_date to_hex to_json to_jsonb to_number to_oct to_regclass
    to_regcollation to_regnamespace to_regoper to_regoperator to_regproc to_regprocedure to_regrole to_regtype
    to_regtypemod to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim_array trim_scale
    trunc ts_delete ts_filter ts_headline ts_lexize ts_rank ts_rank_cd tsmultirange tsrange tstzmultirange
    tstzrange txid_current txid_current_if_assigned txid_current_snapshot txid_snapshot_xip txid_snapshot_xmax
    txid_snapshot_xmin txid_status txid_visible_in_snapshot unicode_assigned unicode_version unistr unnest upper
    upper_inc upper_inf uuid_extract_timestamp uuid_extract_version uuidv4 uuidv7 var_pop var_samp varbit
    varchar variance version websearch_to_tsquery width width_bucket xid xml xml_is_well_formed
    xml_is_well_formed_content xml_is_well_formed_document xmlagg xmlcomment xmlexists xmltext xmlvalidate xpath
    xpath_exists
"""

# What the views of the standard are made with; drivers ask for keys with the first.
_SCHEMA_FUNCTIONS = """
    _pg_expandarray _pg_index_position _pg_truetypid _pg_truetypmod _pg_char_max_length
    _pg_char_octet_length _pg_numeric_precision _pg_numeric_precision_radix _pg_numeric_scale _pg_datetime_precision
    _pg_interval_type
"""

_CATALOG = """
    pg_aggregate pg_am pg_amop pg_amproc pg_attrdef pg_attribute pg_auth_members pg_available_extension_versions
    pg_available_extensions pg_cast pg_class pg_collation pg_constraint pg_conversion pg_cursors pg_database
    pg_default_acl pg_depend pg_description pg_enum pg_event_trigger pg_extension pg_group pg_index pg_indexes
    pg_inherits pg_init_privs pg_language pg_locks pg_matviews pg_namespace pg_opclass pg_operator pg_opfamily
    pg_parameter_acl pg_partitioned_table pg_policies pg_policy pg_prepared_statements pg_proc pg_publication
    pg_publication_namespace pg_publication_rel pg_publication_tables pg_range pg_rewrite pg_roles pg_rules
    pg_seclabel pg_seclabels pg_sequence pg_sequences pg_shdepend pg_shdescription pg_shseclabel pg_statistic_ext
    pg_tables pg_tablespace pg_timezone_abbrevs pg_timezone_names pg_transform pg_trigger pg_ts_config
    pg_ts_config_map pg_ts_dict pg_ts_parser pg_ts_template pg_type pg_views
"""

_SCHEMA = """
    administrable_role_authorizations applicable_roles attributes character_sets check_constraint_routine_usage
    check_constraints collation_character_set_applicability collations column_column_usage column_domain_usage
    column_privileges column_udt_usage columns constraint_column_usage constraint_table_usage data_type_privileges
    domain_constraints domain_udt_usage domains element_types enabled_roles foreign_data_wrappers foreign_servers
    foreign_tables information_schema_catalog_name key_column_usage parameters referential_constraints
    role_column_grants role_routine_grants role_table_grants role_udt_grants role_usage_grants routine_column_usage
    routine_privileges routine_routine_usage routine_sequence_usage routine_table_usage routines schemata sequences
    sql_features sql_implementation_info sql_parts sql_sizing table_constraints table_privileges tables transforms
    triggered_update_columns triggers udt_privileges usage_privileges user_defined_types view_column_usage
    view_routine_usage view_table_usage views
"""

# Said aloud, so that nobody has to find out by what is missing. (pg_roles shows no password; pg_user is the same.)
EXCEPT = (
    "pg_catalog.pg_authid", "pg_catalog.pg_shadow", "pg_catalog.pg_user", "pg_catalog.pg_user_mapping*",
    "pg_catalog.pg_subscription*", "pg_catalog.pg_largeobject*", "pg_catalog.pg_hba_file_rules",
    "pg_catalog.pg_ident_file_mappings", "pg_catalog.pg_file_settings", "pg_catalog.pg_settings",
    "pg_catalog.pg_db_role_setting", "pg_catalog.pg_foreign_*", "pg_catalog.pg_stat_*", "pg_catalog.pg_statio_*",
    "pg_catalog.pg_stats*", "pg_catalog.pg_statistic", "pg_catalog.pg_statistic_ext_data",
    "information_schema.*_options", "information_schema.user_mappings", "information_schema._pg_foreign_*",
    "information_schema._pg_user_mappings",
)  # fmt: skip

# search_path: names are resolved anew after it. client_encoding and standard_conforming_strings: only to values under
# which a text reads the same; any other makes the statement one that cannot be read.
SET = (
    "application_name", "array_nulls", "bytea_output", "client_encoding", "client_min_messages", "datestyle",
    "default_transaction_deferrable", "default_transaction_isolation", "default_transaction_read_only",
    "extra_float_digits", "idle_in_transaction_session_timeout", "idle_session_timeout", "intervalstyle", "jit",
    "lc_messages", "lc_monetary", "lc_numeric", "lc_time", "lock_timeout", "search_path",
    "standard_conforming_strings", "statement_timeout", "timezone", "transaction_deferrable",
    "transaction_isolation", "transaction_read_only", "transaction_timeout", "xmlbinary", "xmloption",
)  # fmt: skip

# `all` gives every setting the value that it had at login. RESET of role and session_authorization only goes back.
RESET = (*SET, "all", "role", "session_authorization")

# Not `all`, and no name with a dot: extensions and people keep secrets there.
SHOW = (
    *SET, "block_size", "data_checksums", "default_*", "enable_*", "in_hot_standby", "integer_datetimes",
    "is_superuser", "jit*", "lc_*", "max_*", "role", "segment_size", "server_encoding", "server_version",
    "server_version_num", "session_authorization", "ssl", "timezone_abbreviations", "wal_block_size", "wal_level",
    "work_mem",
)  # fmt: skip

TRANSACTIONS = ("begin", "commit", "constraints", "discard", "release", "rollback", "savepoint")


def published() -> dict[str, dict[str, object]]:
    """The lists as they are published and go into the evidence: globs with * and ? over touches' full names."""
    functions = [*_full("pg_catalog", _FUNCTIONS), *_full("information_schema", _SCHEMA_FUNCTIONS)]
    return {
        "postgres/client": {
            "functions": functions,
            "relations": [*_full("pg_catalog", _CATALOG), *_full("information_schema", _SCHEMA)],
            "except": list(EXCEPT),
            "settings": {"set": list(SET), "reset": list(RESET), "show": list(SHOW)},
            "transactions": list(TRANSACTIONS),
        }
    }


def permitted(protocol: str, name: str, touch: Touch) -> bool:
    """Whether the list of that protocol and name lets this touch in. False for a protocol without one.

    Cost: well under a microsecond for the usual touches.
    """
    if (protocol, name) != POSTGRES_CLIENT:
        return False
    kind, verb = touch.kind, touch.verb
    if kind == "relation":
        return verb == "select" and touch.name in _relations()
    if kind == "function":
        return verb == "call" and touch.name in _functions()
    if kind == "transaction":
        return verb in TRANSACTIONS
    return kind == "setting" and _setting(verb, touch.name)


def page() -> str:
    """The reference page `docs/reference/basics.md`."""
    lists = published()["postgres/client"]
    shown = ["# Basics", "", _INTRODUCTION]
    shown += _section("Transactions and the session", TRANSACTIONS, "Verbs on the session's own transaction.")
    shown += _section("SET", SET, "Settings that may be set, also by `set_config` with the name as a constant.")
    shown += _section("RESET", RESET, "Settings that may be put back.")
    shown += _section("SHOW", SHOW, "Settings that may be shown, also by `current_setting`.")
    for key, title in (("relations", "Relations"), ("functions", "Functions")):
        words = lists[key]
        assert isinstance(words, list)
        what = "May be selected from." if key == "relations" else "May be called."
        shown += _section(title, words, what)
    shown += _section("Never in it", EXCEPT, "Stated for the reader; it is not in the lists above either.")
    return "\n".join(shown)


_INTRODUCTION = """\
What a grant with `basics: client` (the default) lets an identity do besides what its `allow` lines say: what drivers
and `psql` need to connect and to describe tables. `basics: none` takes it away. This page is made from the program
(`muniment.judge.basics`); a test holds it equal. Patterns use `*` and `?`.

## postgres
"""


def _section(title: str, words: Iterable[str], what: str) -> list[str]:
    return [f"### {title}", "", what, "", "```", *words, "```", ""]


def _full(schema: str, words: str) -> list[str]:
    return [f"{schema}.{word}" for word in words.split()]


@cache
def _functions() -> frozenset[str]:
    return frozenset(_full("pg_catalog", _FUNCTIONS) + _full("information_schema", _SCHEMA_FUNCTIONS))


@cache
def _relations() -> frozenset[str]:
    return frozenset(_full("pg_catalog", _CATALOG) + _full("information_schema", _SCHEMA))


@cache
def _patterns(verb: str) -> Callable[[str], object] | None:
    lists = {"set": SET, "reset": RESET, "show": SHOW}
    return globs.any_matcher(lists.get(verb, ()))


def _setting(verb: str, name: str) -> bool:
    match = _patterns(verb)
    return match is not None and "." not in name and match(name) is not None
