"""The data sets known by name, and how tables of all sources come to have the same columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from lepjax.core.errors import UserError
from lepjax.data.quarantine import REFUSE, Sieve
from lepjax.data.tables import NUMBER, Table

GLUE = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"


@dataclasses.dataclass(frozen=True)
class Known:
    """A data set that has a name. To add one, add an entry to `KNOWN`."""

    name: str
    labels: tuple[str, ...] | None = None
    """Names of the classes or tags in the order of their ids; (): none (numbers, answers); None: those of the files."""
    hub: str = ""
    """Its repository among the hub's data sets."""
    config: str = ""
    """The folder of that repository that holds its files."""
    revision: str = ""
    """The commit or branch to take; empty: the newest."""
    tfds: str = ""
    """Its name in TFDS."""
    family: str = ""
    """A folder that may hold it together with its kin, as glue/cola_train.tsv."""
    tagged: bool = False
    """Whether its .tsv files are tagged sentences."""


def _glue(name: str, *labels: str) -> Known:
    return Known(name, labels, "nyu-mll/glue", name, GLUE, f"glue/{name}", family="glue")


def _positions(positions: str, *types: str) -> list[str]:
    return [f"{position}-{kind}" for kind in types for position in positions]


CONLL_TAGS = ("O", *_positions("BI", "PER", "ORG", "LOC", "MISC"))
RESUME_TAGS = (
    "O",
    *_positions("BMES", "NAME", "ORG", "RACE"),
    *_positions("BME", "CONT", "EDU", "LOC", "PRO", "TITLE"),
)

KNOWN = {
    known.name: known
    for known in (
        _glue("cola", "unacceptable", "acceptable"),
        _glue("mnli", "entailment", "neutral", "contradiction"),
        _glue("mrpc", "not_equivalent", "equivalent"),
        _glue("qnli", "entailment", "not_entailment"),
        _glue("qqp", "not_duplicate", "duplicate"),
        _glue("rte", "entailment", "not_entailment"),
        _glue("sst2", "negative", "positive"),
        _glue("stsb"),
        _glue("wnli", "not_entailment", "entailment"),
        Known(
            "ag_news",
            ("World", "Sports", "Business", "Sci/Tech"),
            hub="fancyzhx/ag_news",  # its texts begin with the title, those of TFDS do not
            config="data",
            revision="eb185aade064a813bc0b7f42de02595523103ca4",
            tfds="ag_news_subset",
        ),
        Known(
            "conll2003",
            CONLL_TAGS,
            hub="eriktks/conll2003",  # main holds a script; this branch is the hub's own conversion
            config="conll2003",
            revision="refs/convert/parquet",
            tfds="conll2003",
            tagged=True,
        ),
        Known("chnsenticorp", ("negative", "positive"), hub="lansinuote/ChnSentiCorp", config="data"),
        Known("resume_ner_zh", RESUME_TAGS, tagged=True),
        Known(
            "squad",
            (),
            hub="rajpurkar/squad",
            config="plain_text",
            revision="7b6d24c440a36b6815f21b70d25016731768db1f",
            tfds="squad/v1.1",
        ),
    )
}

# The columns that hold the text, or the two texts of a pair; the first that a table has.
TEXTS = (
    ("text", "text_pair"),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "passage"),
    ("question", "context"),
    ("#1 String", "#2 String"),
    ("sentence",),
    ("text",),
    ("description",),
)
LABELS = ("label", "labels", "gold_label", "is_duplicate", "Quality", "score")
TAGS = ("tags", "ner_tags", "ner")


def normalised(
    table: Table, text: tuple[str, ...], label: str, labels: tuple[str, ...] | None, sieve: Sieve = REFUSE
) -> Table:
    """The table with columns `text`, `text_pair`, `label`; or `tokens`, `tags`; or `id`, `question`, `context`,
    `answer_text`, `answer_start` (lists: each question may have several answers).

    text, label   the columns to take; where empty, those of the usual names
    labels        names of the tags, where the table holds their numbers

    Raises `UserError` naming the columns where none fits. A row where a value has the wrong type goes to the sieve.
    """
    if not text and not label:
        for layout in LAYOUTS:
            found = layout(table, labels or (), sieve)
            if found is not None:
                return found
    return _texts(table, text or _usual(table), label, sieve)


def _usual(table: Table) -> tuple[str, ...]:
    usual = next((names for names in TEXTS if set(names) <= table.columns.keys()), None)
    if usual is None:
        raise UserError(
            f"none of its columns is known to hold text: {', '.join(table.columns)}",
            where=table.origin.file,
            fix="Name the columns: text=(...), label=....",
        )
    return usual


def _texts(table: Table, text: tuple[str, ...], label: str, sieve: Sieve) -> Table:
    if len(text) > 2:
        raise UserError(f"{len(text)} columns of text: {', '.join(text)}", where="text", fix="Name one, or two.")
    label = label or next((name for name in LABELS if name in table.columns and name not in text), "")
    for name in (*text, *([label] if label else [])):
        if name not in table.columns:
            raise UserError(f"no column {name!r}", where=table.origin.file, fix=f"It has {', '.join(table.columns)}.")
    table = of_strings(table, text, sieve)
    columns = {new: table.columns[old] for new, old in zip(("text", "text_pair"), text, strict=False)}
    if label:
        columns["label"] = [_spelled(value) for value in table.columns[label]]
    return Table(columns, table.origin)


def of_strings(table: Table, names: Sequence[str], sieve: Sieve = REFUSE) -> Table:
    """The rows whose columns `names` hold strings, as they must."""

    def check(row: int) -> None:
        for name in names:
            value = table.columns[name][row]
            if not isinstance(value, str):
                raise UserError(f"{name} is {value!r}, no text", where=table.origin(row))

    return table.screened(check, sieve)


def _spelled(value: Any) -> Any:
    """Classes are compared as text, and so as the file spells them; numbers with a fraction stay numbers."""
    return value if value is None or isinstance(value, float) else str(value)


def _tagged(table: Table, labels: tuple[str, ...], sieve: Sieve) -> Table | None:
    name = next((name for name in TAGS if name in table.columns), None)
    if "tokens" not in table.columns or name is None:
        return None

    def check(row: int) -> None:
        words, own = table.columns["tokens"][row], table.columns[name][row]
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise UserError("tokens is no list of words", where=table.origin(row))
        if not isinstance(own, list) or len(own) != len(words):
            raise UserError(f"{len(words)} words, and {name} is no list of as many tags", where=table.origin(row))

    table = table.screened(check, sieve)
    tokens, tags = table.columns["tokens"], table.columns[name]
    named = [[labels[tag] if _is_id(tag, labels) else str(tag) for tag in own] for own in tags]
    return Table({"tokens": tokens, "tags": named}, table.origin)


def _is_id(tag: Any, labels: Sequence[str]) -> bool:
    return isinstance(tag, int) and 0 <= tag < len(labels)


def _questions(table: Table, labels: tuple[str, ...], sieve: Sieve) -> Table | None:
    if not {"question", "context"} <= table.columns.keys() or any(name in table.columns for name in LABELS):
        return None
    table = of_strings(table, ("question", "context"), sieve)
    if "answers" in table.columns:
        answers = table.columns["answers"]
        table = table.screened(lambda row: _check_answers(answers[row], table.origin(row)), sieve)
    columns = table.columns
    ids = [str(value) for value in columns.get("id", range(len(table)))]
    found: dict[str, list[Any]] = {"id": ids, **{name: columns[name] for name in ("question", "context")}}
    if "answers" in columns:
        pairs = [_answers(value) for value in columns["answers"]]
        found |= {"answer_text": [texts for texts, _ in pairs], "answer_start": [starts for _, starts in pairs]}
    elif {"answer_text", "answer_start"} <= columns.keys():
        found |= {name: [_listed(value) for value in columns[name]] for name in ("answer_text", "answer_start")}
    return _with_answers(Table(found, table.origin), sieve)


def _check_answers(value: Any, where: str) -> None:
    one = isinstance(value, dict)
    if not one and value is not None and not (isinstance(value, list) and all(isinstance(x, dict) for x in value)):
        raise UserError(f"answers is {value!r}, neither an object nor a list of objects", where=where)


def _answers(value: Any) -> tuple[list[Any], list[Any]]:
    """(texts, starts) from {"text": [...], "answer_start": [...]} or [{"text": ..., "answer_start": ...}]."""
    if isinstance(value, dict):
        return _listed(value.get("text")), _listed(value.get("answer_start"))
    return [one.get("text") for one in value or []], [one.get("answer_start") for one in value or []]


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _with_answers(table: Table, sieve: Sieve) -> Table:
    """The rows whose answers stand where they say."""
    columns = table.columns
    if "answer_text" not in columns:
        return table
    columns["answer_start"] = [[_whole(start) for start in starts] for starts in columns["answer_start"]]

    def check(row: int) -> None:
        context, texts, starts = (columns[name][row] for name in ("context", "answer_text", "answer_start"))
        if len(texts) != len(starts):
            raise UserError(f"{len(texts)} answers and {len(starts)} starts", where=table.origin(row))
        for text, start in zip(texts, starts, strict=True):
            if not isinstance(text, str) or start < 0 or context[start : start + len(text)] != text:
                where = f"{table.origin(row)} (id {columns['id'][row]})"
                fix = "answer_start counts characters from the start of the context, leading spaces included."
                raise UserError(f"the answer {text!r} does not stand at {start} of the context", where=where, fix=fix)

    return table.screened(check, sieve)


def _whole(start: Any) -> int:
    text = str(start)
    return int(text) if text.isdecimal() else -1


def _nested_questions(table: Table, labels: tuple[str, ...], sieve: Sieve) -> Table | None:
    """SQuAD's own files: articles of paragraphs of questions."""
    if "paragraphs" not in table.columns:
        return None
    rows, flat = [], []
    for row, paragraphs in enumerate(table.columns["paragraphs"]):
        try:
            found = [{**question, "context": p["context"]} for p in paragraphs for question in p["qas"]]
            flat += [{name: one[name] for name in ("id", "question", "context", "answers")} for one in found]
        except (KeyError, TypeError) as error:
            raise UserError(f"not as in SQuAD's files ({error!r})", where=table.origin(row)) from error
        rows += [row] * len(found)
    if not flat:
        raise UserError("there is no question", where=table.origin(0))
    columns = {name: [one[name] for one in flat] for name in flat[0]}
    return _questions(Table(columns, table.origin.select(rows)), labels, sieve)


LAYOUTS: tuple[Callable[[Table, tuple[str, ...], Sieve], Table | None], ...] = (_tagged, _nested_questions, _questions)


def labels_of(splits: Sequence[Table]) -> tuple[str, ...]:
    """The classes or tags that occur, sorted (numbers by value); () where labels are numbers with a fraction, or none."""
    columns = [table.columns for table in splits]
    values = {value for split in columns for value in split.get("label", ())} - {None, ""}
    values |= {tag for split in columns for tags in split.get("tags", ()) for tag in tags}
    numbers = [value for value in values if isinstance(value, float) or NUMBER.fullmatch(value)]
    if any(float(value) % 1 for value in numbers):
        return ()
    names = sorted(map(str, values))
    return tuple(sorted(names, key=float) if len(numbers) == len(values) else names)
