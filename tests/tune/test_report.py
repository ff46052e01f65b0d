"""The page of a sweep stands alone and tells every trial."""

import html.parser
import json

import pytest

from lepjax.tune import report
from lepjax.tune.result import Rescored
from tests.tune.planted import planted, result

VOID = {"meta", "br", "img", "link", "input", "hr"}
FETCHES = {"href", "src", "xlink:href", "data", "action", "poster", "srcset"}


class Page(html.parser.HTMLParser):
    """Tables as rows of cells; what is not closed, what is fetched, and what runs, as faults."""

    def __init__(self, text):
        super().__init__()
        self.open, self.faults, self.rows, self.seen = [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self.open]

    def handle_starttag(self, tag, attributes):
        self.seen.append(tag)
        if tag in ("script", "link", "iframe", "img"):
            self.faults.append(f"<{tag}>")
        self.faults += [f"{k}={v}" for k, v in attributes if k in FETCHES and not v.startswith(("#", "data:"))]
        self.faults += [f"{k}={v}" for k, v in attributes if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data):
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def text():
    return report.render(result(planted(20), Rescored((0.5, 0.6))))


def test_the_page_is_whole_and_fetches_nothing(text):
    page = Page(text)
    assert page.faults == []
    assert page.seen.count("svg") == 5
    assert "@import" not in text and "url(http" not in text


@pytest.mark.parametrize("bad", ["<a href='http://x'>x</a>", "<script>1</script>", "<b>", "<p onclick='x'></p>"])
def test_sabotage_a_page_that_fetches_runs_or_breaks_is_noticed(text, bad):
    assert Page(text.replace("<h2>Space", f"{bad}<h2>Space")).faults


def test_every_trial_is_there_the_better_first_and_the_failed_with_its_note(text):
    rows = Page(text).rows
    head = next(i for i, row in enumerate(rows) if row[:2] == ["trial", "state"])
    shown = rows[head + 1 : head + 1 + 23]
    assert [int(row[0]) for row in shown] == [t.ordinal for t in result(planted(20)).ranked]
    scores = [float(row[2]) for row in shown if row[1] in ("complete", "pruned")]
    assert scores == sorted(scores)
    failed = next(row for row in shown if row[1] == "failed")
    assert failed[2] == "-" and failed[-1] == "the score is nan & gone"
    kinds = {row[6] for row in shown}
    assert kinds == {"x", "<b>&[red]", "None", "-"}


def test_the_headline_tells_score_luck_command_and_compiles(text):
    best = result(planted(20)).best
    facts = dict(row for row in Page(text).rows if len(row) == 2)
    assert facts[f"best dev_loss (trial {best.ordinal})"] == f"{best.score:.4g}"
    assert (facts["compiled programs"], facts["shapes"], facts["failed"]) == ("3", "2", "1")
    assert "2 fresh seeds" in text and "--rate 0.01 --kind &#x27;&lt;b&gt;&amp;&#x27;" in text
    assert "secret" not in text


@pytest.mark.parametrize("trials", [(), planted(0)], ids=["none", "none complete"])
def test_a_page_of_few_trials(trials):
    assert Page(report.render(result(trials))).faults == []


def test_both_files_are_written(tmp_path):
    report.write(result((), directory=tmp_path))
    assert json.loads((tmp_path / "result.json").read_text())["trials"] == 0
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")
