from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from analysis.decisions.describe_recommendation import headline
from analysis.optima.describe_approaches import TITLES
from analysis.page import advice, checks, run_list, sections
from analysis.page.report import write_report
from analysis.results import Excluded, Interval, Study, TaskForecast
from tests.analysis.plots.studies import bare_study, make_study

FACTS = {"corpus digest": "sha256:0123abcd", "note": "<b>bold</b>"}
EVIL = "</script><script>alert('w24')</script>"


class Page(HTMLParser):
    """Elements with their attributes, the texts outside scripts and styles, and the scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag in ("script", "style"):
            self._inside = tag
            (self.scripts if tag == "script" else self.styles).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts[-1] += data
        elif self._inside == "style":
            self.styles[-1] += data
        else:
            self.text += data

    def tags(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study(evil_name=EVIL)


@pytest.fixture(scope="module")
def written(study: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_report(study, tmp_path_factory.mktemp("report"), provenance=FACTS).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written: str) -> Page:
    return Page(written)


def test_the_page_loads_nothing(page: Page) -> None:
    loading = {"src", "srcset", "data", "poster", "background", "action", "formaction", "xlink:href"}
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img", "image", "form"), tag
        for name, value in attributes.items():
            if name in loading or (name == "href" and tag != "a"):
                assert value.startswith("#"), f"<{tag} {name}={value!r}>"
    for style in [*page.styles, *(attributes.get("style", "") for _, attributes in page.elements)]:
        assert "@import" not in style
        assert not re.search(r"url\(\s*['\"]?(?!#|data:)", style)


def test_a_browser_may_not_load_anything_either(page: Page) -> None:
    policy = next(meta["content"] for meta in page.tags("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_charts_send_nothing_to_a_cloud(page: Page) -> None:
    own = page.scripts[-1]
    assert "showSendToCloud: false" in own
    assert 'plotlyServerURL: ""' in own


def test_plotly_is_on_the_page_once(page: Page) -> None:
    assert len([script for script in page.scripts if len(script) > 1_000_000 and "plotly.js v" in script[:500]]) == 1
    assert len(page.scripts) == 7


def test_the_answer_stands_first(study: Study, page: Page) -> None:
    text = page.text
    places = [
        text.index(part)
        for part in (study.answer.headline, *study.answer.sentences, "Decide", "The fitted law", "Pictures")
    ]
    assert places == sorted(places)
    for sentence in (*study.answer.measured, *study.answer.extrapolated):
        assert sentence in text


def test_a_name_from_data_is_text_everywhere(written: str, page: Page) -> None:
    assert EVIL not in written
    assert "alert('w24')" in page.text  # shown as it is
    assert not any("alert('w24')" in script for script in page.scripts[2:])
    figures = json.loads(page.scripts[0])
    assert EVIL in figures["loss-tokens"]["csv"]  # and whole in the data
    assert "<b>bold</b>" in page.text


def test_only_web_addresses_are_linked(study: Study, tmp_path: Path) -> None:
    frame = study.table.frame.copy()
    frame["mlflow_url"] = "javascript:alert(1)"
    page = Page(
        write_report(replace(study, table=replace(study.table, frame=frame)), tmp_path).read_text(encoding="utf-8")
    )
    assert all(link["href"].startswith("#") for link in page.tags("a"))


def test_runs_link_to_mlflow(page: Page) -> None:
    links = [link for link in page.tags("a") if link["href"].startswith("http://127.0.0.1:5000/")]
    assert len(links) == 42
    assert all("noopener" in link["rel"] for link in links)


def test_the_law_is_told_with_its_doubts(page: Page) -> None:
    for part in (
        "95 % interval",
        "2250 to 2750",
        "N counts all parameters",
        "nats · parameters^alpha",
        "1 run, predicted 0.9 % off on average",
        "huber_log, delta 0.001",
        "200 bootstrap draws by group. Nine trunks were drawn.",
        "The interval of A spans a factor of 1.2.",
        "D/N 1.6 to 432",
    ):
        assert part in page.text, part


def test_excluded_runs_are_listed_with_their_reason(page: Page) -> None:
    assert "excluded: the loss is not finite at step 37" in page.text


def test_provenance_is_printed(page: Page) -> None:
    assert "sha256:0123abcd" in page.text
    assert re.search(r"isoloss \d+\.\d+", page.text)
    assert re.search(r"digest of the runs' table\s*sha256:[0-9a-f]{64}", page.text)


def test_every_figure_has_a_picture_for_print_and_data_for_the_screen(page: Page) -> None:
    stems = {attributes["data-stem"] for attributes in page.tags("figure")}
    assert len(stems) == 14
    assert set(json.loads(page.scripts[0])) == stems
    assert len(page.tags("svg")) == 14
    assert "@media print" in page.styles[0]


def test_ids_are_unique(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {target for _, attributes in page.elements for target in re.findall(r"url\(#([^)]+)\)", str(attributes))}
    assert targets <= set(ids)


def test_the_report_is_the_same_every_time(study: Study, written: str, tmp_path: Path) -> None:
    assert write_report(study, tmp_path, provenance=FACTS).read_text(encoding="utf-8") == written


def test_a_bare_table_still_gives_a_report_that_says_what_is_missing(tmp_path: Path) -> None:
    page = Page(write_report(bare_study(), tmp_path).read_text(encoding="utf-8"))
    assert "No law was fitted." in page.text
    assert "The fitted law: three runs can't identify five parameters." in page.text
    assert len(page.tags("section")) == 5  # pictures, runs set aside, runs, provenance, and what is absent
    links = {link["href"] for link in page.tags("a")}
    assert links == {f"#{section['id']}" for section in page.tags("section")}
    assert "Pictures that these runs can't give" in page.text
    assert len(page.tags("figure")) == 2


def test_the_decision_stands_with_the_answer(study: Study, page: Page) -> None:
    assert study.recommendation is not None
    sentence = headline(study.recommendation)
    assert page.text.index(study.answer.headline) < page.text.index(sentence) < page.text.index("The fitted law")


def test_what_the_uncertainty_is_made_of_is_a_table(page: Page) -> None:
    for part in (
        "over draws of whole trunks",
        "sampling of runs16 %",
        "no: its held-out error is three times the best law's",
        "objective: huber_log (the fit's own)",
        "all together20 %",
    ):
        assert part in page.text, part


def test_the_approaches_stand_side_by_side_with_their_reasons(page: Page) -> None:
    for part in (
        *TITLES.values(),
        "a curve of loss against compute takes 4 optima",
    ):
        assert part in page.text, part
    assert "At 1.6×10¹³ FLOPs, 10 times the largest fitted run's." in page.text
    assert "within a factor of 1.22" in page.text


def test_extrapolation_and_structure_are_told_in_numbers(page: Page) -> None:
    assert "at 10 times their largest compute 1.6 %" in page.text
    assert "four sizes are needed, three are in it" in page.text
    assert "D0.0040.012structuredthe law lies 0.4 % above the runs with the most tokens" in page.text
    assert "N0.410.82no structure shown" in page.text


def test_flagged_runs_are_named_and_stay_in_the_fit(page: Page) -> None:
    assert "Further off than 4 robust standard deviations. They are dropped only where that was asked for." in page.text
    assert "n0-C4e+11-s1–3.4 %4.3kept" in page.text
    assert "fitted, outlier" in page.text


def test_excluded_runs_are_gathered_by_reason(study: Study) -> None:
    frame = study.table.frame.copy()
    gone = frame.index[:12]
    frame.loc[gone, "excluded"] = "loss is missing"
    frame.loc[gone, "row"] = range(1, 13)
    fit = replace(study.fit, excluded=(Excluded(row=None, run_id="bad", reason="the loss is not finite at step 37"),))  # type: ignore[type-var]
    page = Page(checks.set_aside(replace(study, fit=fit, table=replace(study.table, frame=frame))))
    assert "Excluded runs (13)" in page.text
    assert "loss is missing12" in page.text
    assert "and 4 more" in page.text
    assert page.text.index("loss is missing") < page.text.index("not finite at step 37")


def many_runs(study: Study, count: int) -> Study:
    frame = pd.concat([study.table.frame] * (count // len(study.table.frame) + 1), ignore_index=True).head(count)
    frame["run_id"] = [f"run-{k}" for k in range(count)]
    return replace(study, table=replace(study.table, frame=frame))


def test_a_long_table_of_runs_is_folded_and_searched(study: Study) -> None:
    few, many = Page(run_list.runs(study)), Page(run_list.runs(many_runs(study, 1000)))
    assert not few.tags("details")
    assert len(many.tags("details")) == 1
    assert "open" not in many.tags("details")[0]
    assert many.tags("label")[0]["for"] == many.tags("input")[0]["id"]
    assert len(many.tags("tr")) == 1001


def test_a_very_long_table_is_cut_and_its_csv_is_whole(study: Study) -> None:
    large = many_runs(study, 2500)
    page = Page(run_list.runs(large))
    assert len(page.tags("tr")) == run_list.MOST_ROWS + 1
    assert "The first 2,000 of 2,500 runs; all of them: runs.csv" in page.text
    rows = list(csv.DictReader(io.StringIO(run_list.runs_csv(large))))
    assert len(rows) == 2500
    assert {"run_id", "n_params", "n_tokens", "loss", "predicted", "excluded"} <= set(rows[0])


def test_the_panel_is_labelled_and_answers_without_scripts(study: Study, page: Page) -> None:
    assert study.lifetime is not None
    labels = {label["for"] for label in page.tags("label")}
    for field in page.tags("input"):
        assert field["id"] in labels or field.get("aria-label")
    ranges = [field for field in page.tags("input") if field["type"] == "range"]
    assert len(ranges) == 6
    shown = [attributes["data-field"] for _, attributes in page.elements if "data-field" in attributes]
    assert len(shown) == len(set(shown)) == 17
    assert "the cheapest model to own has" in page.text
    assert "where scripts are allowed, sliders ask others" in page.text


def test_columns_that_say_nothing_of_any_pair_are_left_out(study: Study) -> None:
    whole = sections.pairs(study)
    assert "speed, batch 1" in whole
    slow = replace(study, pairs=tuple(replace(pair, speedup_batch_1=None) for pair in study.pairs))
    assert "speed, batch 1" not in sections.pairs(slow)
    assert "speed, saturated" in sections.pairs(slow)


def test_what_the_loss_is_worth_in_tasks_stands_with_the_recommendation(study: Study) -> None:
    assert study.recommendation is not None
    task = TaskForecast(
        target="task_error",
        loss=2.4,
        value=0.412,
        ci95=Interval(lo=0.39, hi=0.43),
        fitted_losses=Interval(lo=2.5, hi=3.5),
        outside="a loss of 2.400 is below the 2.500 of the best run that was tested",
        absent=None,
    )
    told = advice.recommendation(replace(study, recommendation=replace(study.recommendation, tasks=(task,))))
    assert "task_error should be 41.2% [39.0%, 43.0%]" in told
    assert "extrapolated: a loss of 2.400 is below" in told
