"""Tells a harmless question from everything else by its tokens, before ClickHouse sees it. Pure.

Where ClickHouse's lexer and this one could read a text differently, the text is refused: what looks like a string or a
remark here must be one there. Refused are therefore remarks within remarks, quotes that are not closed, escapes in
quoted names, and `$` after a letter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from analytics.warehouse import WarehouseError

# The first alternative that fits: a quote or remark that `open` meets is one that is never closed.
_TOKEN: Final = re.compile(
    r"""
    (?P<skip>   \s+ | --[^\n]* | //[^\n]* | \#[ !][^\n]* | /\*.*?\*/ )
  | (?P<text>   '(?:[^'\\]|\\.|'')*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ )
  | (?P<quoted> "(?:[^"\\]|\\.|"")*" | `(?:[^`\\]|\\.|``)*` )
  | (?P<open>   /\* | ['"`] | \$\w*\$ )
  | (?P<word>   [^\W\d]\w* )
  | (?P<other>  . )
    """,
    re.VERBOSE | re.DOTALL,
)
_BEGINNINGS: Final = ("select", "with", "show", "describe", "desc", "exists", "explain")
# What SHOW may be of: not users, grants, settings or what others are asking.
_SHOWN: Final = frozenset(
    {
        *("tables", "databases", "columns", "fields", "index", "indexes", "indices", "keys", "create", "full"),
        *("extended", "temporary", "functions", "table", "view"),
    }
)
# What SHOW CREATE may not be of.
_HIDDEN: Final = frozenset(
    {
        *("user", "users", "role", "roles", "quota", "quotas", "profile", "profiles", "settings", "row", "policy"),
        *("policies", "access", "named", "dictionary", "workload", "resource", "masking"),
    }
)
# Table functions that compute and reach nothing.
_HARMLESS: Final = frozenset(
    {
        *("numbers", "numbers_mt", "zeros", "zeros_mt", "primes", "generateseries", "generate_series"),
        *("generaterandom", "values", "sqlstandardvalues", "null", "format", "view"),
        *("mergetreeindex", "mergetreeprojection"),
    }
)
# Tables of `system` that describe tables and their parts, and nothing of users, secrets, or what others are asking.
_SYSTEM: Final = frozenset(
    {
        *("tables", "columns", "databases", "parts", "parts_columns", "projections", "projection_parts"),
        *("projection_parts_columns", "data_skipping_indices", "merges", "mutations", "detached_parts"),
        *("functions", "table_functions", "table_engines", "data_type_families", "formats", "aggregate_function"),
        *("one", "numbers", "numbers_mt", "zeros", "zeros_mt", "metrics", "events", "asynchronous_metrics"),
        *("build_options", "time_zones", "keywords", "contributors", "licenses"),
    }
)
# Functions that reach out of the tables: files, the network, the server's secrets. Those that ask a language model, and
# those that ask a dictionary (which may fetch from anywhere), are matched by their beginnings.
_REACHING: Final = frozenset(
    {
        *("file", "catboostevaluate", "filesystemavailable", "filesystemcapacity", "filesystemunreserved"),
        *("reversednsquery", "getserversetting", "getclienthttpheader", "getmacro", "showcertificate"),
        *("addresstoline", "addresstolinewithinlines", "addresstosymbol", "buildid", "joinget", "joingetornull"),
        *("naivebayesclassifier", "naivebayesclassifierwithprob", "naivebayesclassifierwithallprobs", "evalmlmethod"),
        *("getsetting", "getsettingordefault", "currentrequesturl", "logtrace"),
    }
)
_MODEL: Final = re.compile(r"ai(generate|embed|classify|extract|filter|redact|translate|similarity)\w*")
_DICTIONARY: Final = re.compile(r"dict(get|has|is|short)\w*")
# ClickHouse's lexer takes typographic quotes for quotes, and these for blanks; ours does not.
_ODD: Final = re.compile(
    "[\u2018\u2019\u201c\u201d\u2212\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2064\ufeff]"
)


class QueryRefusedError(WarehouseError):
    """A statement that is no single, harmless question."""


def check_read_only(sql: str, reaching: Iterable[str] = ()) -> str:
    """The statement without its last semicolon. Raises `QueryRefusedError` naming what is not allowed.

    `reaching`: lower-case names of functions that must not be called, besides those known to read files or models; the
    harmless ones among them may.
    """
    forbidden = frozenset(reaching) - _HARMLESS | _REACHING
    tokens = _tokens(sql)
    while tokens and tokens[-1] == ";":
        tokens.pop()
    if not tokens:
        raise QueryRefusedError("the query is empty")
    first = next((one for one in tokens if one != "("), "")
    if first not in _BEGINNINGS:
        raise QueryRefusedError(
            f"only questions are answered here ({', '.join(_BEGINNINGS).upper()}), not {first.upper()}"
        )
    if first == "show" and (tokens[1:2] == [] or tokens[1] not in _SHOWN or set(tokens[2:3]) & _HIDDEN):
        raise QueryRefusedError(
            "SHOW is answered of tables, databases, columns, indexes, functions, and of CREATE TABLE"
        )
    for at, word in enumerate(tokens):
        _check(word, tokens, at, forbidden)
    return sql.strip().rstrip(";").rstrip()


def _check(word: str, tokens: Sequence[str], at: int, forbidden: frozenset[str]) -> None:
    after = tokens[at + 1] if at + 1 < len(tokens) else ""
    if word == ";":
        raise QueryRefusedError("one statement at a time")
    if word == "into" and after == "outfile":
        raise QueryRefusedError("INTO OUTFILE is not allowed: use --csv or --json and redirect")
    if word == "format" and at == len(tokens) - 2 and after.isidentifier():
        raise QueryRefusedError("leave FORMAT out: --csv and --json choose it")
    if word in ("from", "join") and after == "''":
        raise QueryRefusedError("a table's name is not a text: files and addresses are not read")
    # A function is also called by its bare name: * APPLY f, arrayMap(f, ...). A column of that name needs its table's.
    bare = (at == 0 or tokens[at - 1] != ".") and after != "."
    reaches = word in _REACHING or _MODEL.fullmatch(word) or _DICTIONARY.fullmatch(word)
    if (bare and reaches) or (after == "(" and word in forbidden):
        raise QueryRefusedError(f"{word}() reaches out of the warehouse and is not allowed")
    if word == "settings" and tokens[at + 2 : at + 3] == ["="]:
        raise QueryRefusedError("SETTINGS are not taken: what a question may cost is the same for all")
    if word == "system" and after == "." and (name := tokens[at + 2 : at + 3]) and name[0] not in _SYSTEM:
        raise QueryRefusedError(
            f"system.{name[0]} is not shown here: it may tell of users, secrets, or what others are asking"
        )


def _tokens(sql: str) -> list[str]:
    """Words (lower case, also those in quotes: a function's name may be quoted) and signs; no remarks or texts.

    Raises `QueryRefusedError` for what two lexers might read in two ways.
    """
    found: list[str] = []
    for match in _TOKEN.finditer(sql):
        kind = "text" if match["text"] is not None else match.lastgroup
        token = match[0]
        if kind == "open":
            raise QueryRefusedError(f"a quote or remark is not closed: {sql[match.start() : match.start() + 20]!r}")
        if kind == "skip":
            if token.startswith("/*") and "/*" in token[2:]:
                raise QueryRefusedError("a remark within a remark is not allowed")
            continue
        if (
            token.startswith("$")
            and match.start()
            and (sql[match.start() - 1].isalnum() or sql[match.start() - 1] in "_$")
        ):
            raise QueryRefusedError("a $ after a letter is not allowed")
        if kind == "text":
            found.append("''")
        elif kind == "quoted":
            if "\\" in token or token[0] * 2 in token[1:-1]:
                raise QueryRefusedError(f"escapes are not allowed in a quoted name: {token[:40]}")
            found.append(token[1:-1].lower())
        else:
            found.append(token.lower())
        if kind != "text" and _ODD.search(token):
            raise QueryRefusedError(f"typographic quotes and control characters are not allowed: {token!r}")
    return found
