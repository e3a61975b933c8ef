"""`isoloss recommend`: which model to train, and for how long, when what it will serve is counted too."""

from __future__ import annotations

from analysis.decisions.options import DecisionOptions
from analysis.fitting.options import FitOptions
from sweeps.commands.decision import decision_options
from sweeps.commands.options import JsonOption, RunsArgument, StorageOption, fit_options, runs_query
from sweeps.commands.takes import takes
from sweeps.commands.terminal import print_json, say_wrapped
from sweeps.runs_query import RunsQuery, open_runs


@takes(decision=decision_options, query=runs_query, fitting=fit_options)
def recommend(
    runs: RunsArgument,
    decision: DecisionOptions,
    query: RunsQuery,
    fitting: FitOptions,
    storage: StorageOption = None,
    as_json: JsonOption = False,
) -> None:
    """Which model to train for a compute budget, a target loss or a sum of money, and what a demand changes about it."""
    from analysis.decisions.describe_recommendation import describe_recommendation
    from analysis.decisions.recommend import recommend as decide
    from analysis.decisions.recommend_json import recommend_json

    recommendation = decide(open_runs(runs, storage, query), **decision, **fitting)
    if as_json:
        print_json(recommend_json(recommendation))
    else:
        say_wrapped(describe_recommendation(recommendation).splitlines())
