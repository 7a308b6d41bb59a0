"""Conditions that Django's lookups do not have: exact texts, patterns with ``*``, and a call in the data of an event.

Databases differ in their functions for JSON and in the comparison of texts: MariaDB and MySQL ignore case, accents and
spaces at the end. Django calls ``as_sqlite()``, ``as_postgresql()`` and ``as_mysql()``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from django.db.models import BooleanField, F, Func, Value
from django.db.models.lookups import BuiltinLookup, In, Range

from signalbox.core.receiver_stats import PASSED_THROUGH_KEY

ESCAPE: Final = "|"
"""Escapes ``%`` and ``_`` in LIKE. A backslash depends on the mode of MySQL."""


def to_like_pattern(glob: str) -> str:
    """Return the pattern of LIKE for a text in which ``*`` matches any characters."""
    return escape_like(glob).replace("*", "%")


def escape_like(text: str) -> str:
    """Return ``text`` for a pattern of LIKE in which it is meant literally."""
    for special in (ESCAPE, "%", "_"):
        text = text.replace(special, ESCAPE + special)
    return text


def to_glob_pattern(glob: str) -> str:
    """Return the pattern of SQLite's GLOB, in which ``?`` and ``[`` are special too."""
    return glob.replace("[", "[[]").replace("?", "[?]")


class GlobMatch(Func):
    """Whether an expression matches a pattern in which ``*`` matches any characters. Upper and lower case differ.

    Args:
        expression: The expression, or the name of a column.
        glob: The pattern.
    """

    arity = 2
    output_field = BooleanField()
    template = f"%(expressions)s ESCAPE '{ESCAPE}'"
    arg_joiner = " LIKE "

    def __init__(self, expression: Any, glob: str) -> None:
        super().__init__(expression, Value(to_like_pattern(glob)))
        self.glob = glob

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        """Use GLOB, as LIKE ignores case."""
        copy = self.copy()
        column, _ = self.get_source_expressions()
        copy.set_source_expressions([column, Value(to_glob_pattern(self.glob))])
        return copy.as_sql(compiler, connection, template="%(expressions)s", arg_joiner=" GLOB ", **extra)

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        """Compare bytes, as the collation of the column ignores case."""
        return self.as_sql(compiler, connection, arg_joiner=" LIKE BINARY ", **extra)


class _ComparesBytes(BuiltinLookup):
    """A lookup that compares bytes on MariaDB and MySQL, too. The first comparison uses an index of the column."""

    def as_mysql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        """Compare bytes too, as the collation of the column ignores case, accents and spaces at the end."""
        sql, params = self.as_sql(compiler, connection)
        return f"({sql} AND BINARY {sql})", (*params, *params)


class ExactMatch(_ComparesBytes, In):
    """Whether a column has one of some texts, exactly. An index of the column is used.

    A lookup, not a function: MySQL's backend compares the value of a function with true, and then uses no index.

    Args:
        column: Name of the column. It has no nulls.
        texts: The texts.
    """

    def __init__(self, column: str, texts: Iterable[str]) -> None:
        super().__init__(F(column), list(texts))


class ExactRange(_ComparesBytes, Range):
    """Whether a column has a text, exactly, as a range with equal limits.

    Args:
        column: Name of the column. It has no nulls.
        text: The text.
    """

    def __init__(self, column: str, text: str) -> None:
        super().__init__(F(column), (text, text))


class Contains(Func):
    """Whether an expression contains a text. Upper and lower case are equal; on SQLite only of ASCII letters.

    Args:
        expression: The expression, or the name of a column.
        text: The text.
    """

    arity = 2
    output_field = BooleanField()
    template = f"UPPER(%(expressions)s) ESCAPE '{ESCAPE}'"
    arg_joiner = ") LIKE UPPER("

    def __init__(self, expression: Any, text: str) -> None:
        super().__init__(expression, Value(f"%{escape_like(text)}%"))

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        """Use LIKE without UPPER: it ignores case."""
        template = f"%(expressions)s ESCAPE '{ESCAPE}'"
        return self.as_sql(compiler, connection, template=template, arg_joiner=" LIKE ", **extra)

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        """Compare bytes, as the collation ignores accents."""
        return self.as_sql(compiler, connection, arg_joiner=") LIKE BINARY UPPER(", **extra)


class CallCondition(NamedTuple):
    """What one call of a receiver must meet: a name, an error and all comparisons, as far as they are given."""

    names: tuple[str, ...] = ()
    """Names, or their last parts, with ``*`` for any characters."""
    errors: tuple[str, ...] = ()
    """Parts of the exception; ``*`` for any exception."""
    durations: tuple[tuple[str, int], ...] = ()
    """Operators and microseconds."""


class CallExists(Func):
    """Whether the data of an event contains a call of a receiver that meets a condition.

    An exception that passed through from a nested send is not an error of the call.
    """

    arity = 1
    output_field = BooleanField()

    def __init__(self, column: str, condition: CallCondition) -> None:
        super().__init__(F(column))
        self.condition = condition

    def as_sqlite(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        """Read the array with ``json_each()``."""

        def member(name: str) -> str:
            return f"CASE WHEN sb_call.type = 'object' THEN json_extract(sb_call.value, '$.{name}') END"

        where, params = _build_where(
            self.condition,
            _Dialect(
                member("name"),
                member("error"),
                member(PASSED_THROUGH_KEY),
                member("duration_us"),
                "{} GLOB %s",
                to_glob_pattern,
                f"{{}} LIKE %s ESCAPE '{ESCAPE}'",
            ),
        )
        data, data_params = compiler.compile(self.get_source_expressions()[0])
        return f"EXISTS (SELECT 1 FROM json_each({data}, '$.receivers') AS sb_call WHERE {where})", (  # noqa: S608 - built from constants
            *data_params,
            *params,
        )

    def as_postgresql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        """Read the array with ``jsonb_array_elements()``."""

        def member(name: str) -> str:
            return f"(sb_call.value ->> '{name}')"

        where, params = _build_where(
            self.condition,
            _Dialect(
                member("name"),
                member("error"),
                member(PASSED_THROUGH_KEY),
                f"{member('duration_us')}::numeric",
                f"{{}} LIKE %s ESCAPE '{ESCAPE}'",
                to_like_pattern,
                f"UPPER({{}}) LIKE UPPER(%s) ESCAPE '{ESCAPE}'",
            ),
        )
        data, data_params = compiler.compile(self.get_source_expressions()[0])
        array = f"CASE WHEN jsonb_typeof({data} -> 'receivers') = 'array' THEN {data} -> 'receivers' END"
        found = f"EXISTS (SELECT 1 FROM jsonb_array_elements({array}) AS sb_call (value) WHERE {where})"  # noqa: S608 - built from constants
        return found, (*data_params, *data_params, *params)

    def as_mysql(self, compiler: Any, connection: Any, **extra: Any) -> tuple[str, Any]:
        """Read the array with ``JSON_TABLE()``."""
        where, params = _build_where(
            self.condition,
            _Dialect(
                "sb_call.name",
                "sb_call.error",
                "sb_call.passed",
                "sb_call.duration",
                f"{{}} LIKE BINARY %s ESCAPE '{ESCAPE}'",
                to_like_pattern,
                f"UPPER({{}}) LIKE BINARY UPPER(%s) ESCAPE '{ESCAPE}'",
            ),
        )
        data, data_params = compiler.compile(self.get_source_expressions()[0])
        columns = (
            "name VARCHAR(500) PATH '$.name', error TEXT PATH '$.error', duration BIGINT PATH '$.duration_us', "
            f"passed VARCHAR(10) PATH '$.{PASSED_THROUGH_KEY}'"
        )
        table = f"JSON_TABLE({data}, '$.receivers[*]' COLUMNS ({columns})) AS sb_call"
        return f"EXISTS (SELECT 1 FROM {table} WHERE {where})", (*data_params, *params)  # noqa: S608 - built from constants


class _Dialect(NamedTuple):
    """The members of a call in SQL, and how they are compared."""

    name: str
    error: str
    passed_through: str
    duration: str
    glob: str
    to_pattern: Callable[[str], str]
    contains: str


def _build_where(condition: CallCondition, dialect: _Dialect) -> tuple[str, list[Any]]:
    parts: list[str] = []
    params: list[Any] = []
    if condition.names:
        globs = [glob for name in condition.names for glob in (name, f"*.{name}")]
        parts.append(" OR ".join(dialect.glob.format(dialect.name) for _ in globs))
        params += map(dialect.to_pattern, globs)
    if condition.errors:
        parts.append(f"{dialect.passed_through} IS NULL")
        parts.append(f"{dialect.error} IS NOT NULL")
        if "*" not in condition.errors:
            parts.append(" OR ".join(dialect.contains.format(dialect.error) for _ in condition.errors))
            params += [f"%{escape_like(text)}%" for text in condition.errors]
    for operator, microseconds in condition.durations:
        parts.append(f"{dialect.duration} {operator} %s")
        params.append(microseconds)
    return " AND ".join(f"({part})" for part in parts), params
