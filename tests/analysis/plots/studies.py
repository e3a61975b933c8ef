"""Studies made by hand from a known law, at the quickstart's scale: what pictures and the report are drawn from in tests.

Nothing is fitted here, so a picture's test fails for the picture's own faults alone.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from analysis.laws import get_law
from analysis.results import (
    Answer,
    Approach,
    Approaches,
    AxisStructure,
    Band,
    BatchCost,
    BowlPoint,
    BreakEven,
    BudgetOptimum,
    Choice,
    Contribution,
    Convergence,
    Costs,
    Envelope,
    EnvelopePoint,
    Estimate,
    Excluded,
    Exponents,
    Extrapolation,
    Fit,
    FittedPoint,
    FittedRange,
    FrontierPoint,
    HeldOut,
    Interval,
    Isoflop,
    IsoflopVertex,
    KCurve,
    Lifetime,
    MatchedPair,
    Optimum,
    Outlier,
    PairSide,
    PowerLaw,
    Question,
    Recommendation,
    Regret,
    Resampling,
    ResidualStructure,
    Ridge,
    Serving,
    SizeLine,
    Study,
    TokenCost,
    Uncertainty,
    Window,
    WindowForecast,
)
from analysis.runs.table import LossCurve, RunTable, make_frame
from llama.records import InferenceCost, InferencePoint, Quantiles

LAW = {"A": 2500.0, "B": 500.0, "E": 1.9, "alpha": 0.8, "beta": 0.48}
SIZES = (23_000.0, 39_400.0, 73_200.0, 132_000.0, 267_000.0, 399_000.0)
BUDGETS = (1e11, 2e11, 4e11, 8e11, 1.6e12)
FLOPS_PER_PARAM = 7.0
NAN = float("nan")


def truth(n_params: np.ndarray | float, n_tokens: np.ndarray | float) -> np.ndarray:
    return get_law("chinchilla").predict(get_law("chinchilla").as_vector(LAW), n_params, n_tokens)


def make_study(*, seed: int = 0, evil_name: str | None = None) -> Study:
    """Six sizes, five budgets, three seeds at the two smallest, the largest size held out, one run diverged."""
    rng = np.random.default_rng(seed)
    rows, curves = _runs(rng, evil_name)
    table = RunTable(
        source="hand-made",
        frame=make_frame(rows),
        inference={
            str(row["run_id"]): _inference(float(row["n_params"])) for row in rows if row["status"] == "finished"
        },
    )
    fit = _fit(table, rng)
    draws = fit.draws_KP
    assert draws is not None
    train_flops = _rule("FLOPs", FLOPS_PER_PARAM)
    lifetime = _lifetime(draws)
    return Study(
        table=table,
        curves=tuple(curves),
        fit=fit,
        frontier=_frontier(table),
        isoflop=_isoflop(table),
        train_flops=train_flops,
        budgets=(
            BudgetOptimum(
                flops=BUDGETS[-1],
                optimum=Optimum(
                    n_params=1.1e5,
                    n_tokens=2.1e6,
                    loss=2.61,
                    cost=1.6e12,
                    unit="FLOPs",
                    ci95={"n_params": Interval(lo=9.0e4, hi=1.4e5), "loss": Interval(lo=2.58, hi=2.64)},
                    outside_fitted_range=(),
                ),
            ),
        ),
        serving=_serving(),
        costs=lifetime.costs,
        lifetime=lifetime,
        k_curve=_k_curve(),
        recommendation=_recommendation(fit, lifetime),
        structure=_structure(),
        extrapolation=_extrapolation(table),
        approaches=_approaches(fit),
        pairs=_pairs(table),
        answer=Answer(
            headline="39.4k parameters on 4.3M tokens reach the loss of 73.2k on 1.4M and serve 1.6x faster (made by hand).",
            sentences=("The law is L = 1.90 + 2500 N^-0.80 + 500 D^-0.48.", "Held-out runs are 0.9 % off on average."),
            measured=("Losses of 30 runs.", "Decode speed of six sizes on one core."),
            interpolated=("Compute optima between the sizes.",),
            extrapolated=("Demand beyond 1B tokens.",),
        ),
        absent={},
    )


def bare_study() -> Study:
    """Three runs from a CSV: nothing could be worked out, and each part says why."""
    rows = [
        {
            "run_id": f"row-{k}",
            "name": f"row-{k}",
            "n_params": 1e6 * k,
            "n_params_non_embedding": NAN,
            "n_tokens": 2e7 * k,
            "loss": 4.0 - 0.2 * k,
            "status": "finished",
            "row": k,
        }
        for k in (1, 2, 3)
    ]
    return Study(
        table=RunTable(source="three.csv", frame=make_frame(rows)),
        curves=(),
        fit=None,
        frontier=(),
        isoflop=None,
        train_flops=_rule("FLOPs", 6.0),
        budgets=(),
        serving=None,
        costs=None,
        lifetime=None,
        k_curve=None,
        pairs=(),
        answer=Answer(
            headline="No law was fitted.",
            sentences=(),
            measured=("Three losses.",),
            interpolated=(),
            extrapolated=(),
        ),
        absent={
            "fit": "three runs can't identify five parameters",
            "isoflop": "no declared compute budgets",
            "lifetime": "no fitted law",
            "k_curve": "no fitted law",
            "recommendation": "no fitted law",
            "structure": "no fitted law",
            "extrapolation": "no fitted law",
            "approaches": "three runs are no envelope",
            "serving": "no measured inference cost",
            "pairs": "no measured inference cost",
        },
    )


def without_law(study: Study) -> Study:
    """The same runs with the law and all that rests on it taken away."""
    gone = (
        "fit",
        "costs",
        "lifetime",
        "k_curve",
        "recommendation",
        "structure",
        "extrapolation",
        "approaches",
    )
    return replace(study, **dict.fromkeys(gone), absent=dict.fromkeys(gone, "the optimiser did not converge"))  # type: ignore[arg-type]


def _runs(rng: np.random.Generator, evil_name: str | None) -> tuple[list[dict[str, object]], list[LossCurve]]:
    rows: list[dict[str, object]] = []
    curves: list[LossCurve] = []
    spans = ((0, 3), (0, 4), (0, 4), (0, 5), (0, 6))
    for size, n in enumerate(SIZES):
        budgets = [c for c, (first, last) in zip(BUDGETS, spans, strict=True) if first <= size < last]
        for run_seed in range(3 if size < 2 else 1):
            trunk = f"trunk-{size}-{run_seed}"
            lengths = [c / (FLOPS_PER_PARAM * n) for c in budgets]
            tokens = np.linspace(lengths[-1] / 200, 0.8 * lengths[-1], 160)
            trunk_loss = truth(n, tokens) * (1 + 0.01 * rng.standard_normal(160)) + 0.12
            curves.append(_curve(trunk, "trunk", None, n, tokens, trunk_loss))
            for budget, length in zip(budgets, lengths, strict=True):
                name = f"n{size}-C{budget:.2g}-s{run_seed}"
                if evil_name is not None and not rows:
                    name = evil_name
                loss = float(truth(n, length) * (1 + 0.008 * rng.standard_normal()))
                own = np.linspace(0.81 * length, length, 30)
                drop = np.linspace(0.12, 0, 30)
                branch_loss = np.linspace(float(truth(n, own[0])), loss, 30) + drop + 0.02 * rng.standard_normal(30)
                curves.append(_curve(f"run-{size}-{budget:.2g}-{run_seed}", "branch", trunk, n, own, branch_loss))
                rows.append(
                    {
                        "run_id": f"run-{size}-{budget:.2g}-{run_seed}",
                        "name": name,
                        "group": trunk,
                        "seed": run_seed,
                        "n_params": n,
                        "n_params_non_embedding": 0.8 * n,
                        "n_params_matmul": 0.9 * n,
                        "n_tokens": length,
                        "flops": budget,
                        "flops_budget": budget,
                        "loss": loss,
                        "bpb": loss * 0.7,
                        "held_out": size == len(SIZES) - 1,
                        "status": "finished",
                        "training_seconds": length * (6e-6 + 1.6e-9 * n),
                        "tokens_per_second": 1 / (6e-6 + 1.6e-9 * n),
                        "decode_tokens_per_second": 1 / (1e-5 + 6e-10 * n),
                        "mlflow_url": f"http://127.0.0.1:5000/#/experiments/1/runs/{size}{run_seed}",
                    }
                )
    rows.append(
        {
            "run_id": "bad",
            "name": "diverged-0",
            "seed": 9,
            "n_params": SIZES[0],
            "n_tokens": 2e5,
            "status": "diverged",
            "excluded": "the loss is not finite at step 37",
        }
    )
    return rows, curves


def _curve(run_id: str, kind: str, trunk: str | None, n: float, tokens: np.ndarray, loss: np.ndarray) -> LossCurve:
    return LossCurve(
        run_id=run_id,
        name=run_id,
        kind=kind,  # type: ignore[arg-type]
        trunk=trunk,
        n_params=n,
        train_tokens_G=tokens,
        train_loss_G=loss,
        val_tokens_G=tokens[-1:],
        val_loss_G=loss[-1:],
    )


def _inference(n: float) -> InferenceCost:
    points = []
    for batch in (1, 4, 16, 32, 64):
        gain = min(batch, 32) * (1.0 if batch <= 32 else 0.97)
        tpot = (1.0e-5 + 6.0e-10 * n) * 32 / gain * batch
        points.append(
            InferencePoint(
                batch=batch,
                ttft_seconds=Quantiles(median=64 * tpot / 4, p5=15 * tpot, p95=18 * tpot),
                tpot_seconds=Quantiles(median=tpot, p5=0.95 * tpot, p95=1.1 * tpot),
                prefill_tokens_per_second=4 * batch / tpot,
                decode_tokens_per_second=batch / tpot,
            )
        )
    return InferenceCost(
        device="one core",
        threads=1,
        dtype="float32",
        prompt_tokens=64,
        output_tokens=64,
        repetitions=5,
        weight_bytes=int(4 * n),
        kv_bytes_per_token=512,
        points=points,
    )


def _fit(table: RunTable, rng: np.random.Generator) -> Fit:
    law = get_law("chinchilla")
    vector = law.as_vector(LAW)
    draws = vector * np.exp(np.array([0.2, 0.1, 0.005, 0.02, 0.008]) * rng.standard_normal((200, 5)))
    frame, fitted = table.usable, table.fitted
    points = tuple(
        FittedPoint(
            run_id=str(run_id),
            name=str(name),
            n_params=float(n),
            n_tokens=float(d),
            loss=float(loss),
            predicted=float(truth(float(n), float(d))),
            log_residual=float(np.log(truth(float(n), float(d)) / loss)),
            held_out=bool(held_out),
        )
        for run_id, name, n, d, loss, held_out in frame[
            ["run_id", "name", "n_params", "n_tokens", "loss", "held_out"]
        ].itertuples(index=False)
    )
    ratio = fitted["n_tokens"] / fitted["n_params"]
    product = fitted["n_tokens"] * fitted["n_params"]
    return Fit(
        law="chinchilla",
        objective="huber_log",
        delta=1e-3,
        counting="n_params",
        n_runs=len(fitted),
        n_sizes=fitted["n_params"].nunique(),
        params=LAW,
        ci95={name: Interval(lo=0.9 * value, hi=1.1 * value) for name, value in LAW.items()},
        objective_value=1.2e-4,
        exponents=Exponents(n_opt=0.375, d_opt=0.625, ci95={"n_opt": Interval(lo=0.34, hi=0.41)}),
        residual_sd=0.0082,
        convergence=Convergence(
            gradient_norm=1e-9, bound_hits=(), n_starts=6, n_optima=1, next_best_gap=None, condition_number=4.1e4
        ),
        resampling=Resampling(
            method="group", draws=200, seed=0, groups=9, noise_sd=None, reason="Nine trunks were drawn."
        ),
        draws_KP=draws,
        held_out=HeldOut(n=1, mean_abs_rel_error=0.009, max_abs_rel_error=0.009),
        points=points,
        fitted_range=FittedRange(
            n_params=Interval(lo=float(fitted["n_params"].min()), hi=float(fitted["n_params"].max())),
            n_tokens=Interval(lo=float(fitted["n_tokens"].min()), hi=float(fitted["n_tokens"].max())),
            tokens_per_param=Interval(lo=float(ratio.min()), hi=float(ratio.max())),
            n_times_d=Interval(lo=float(product.min()), hi=float(product.max())),
            loss=Interval(lo=float(fitted["loss"].min()), hi=float(fitted["loss"].max())),
        ),
        excluded=(Excluded(row=None, run_id="bad", reason="the loss is not finite at step 37"),),
        warnings=("The interval of A spans a factor of 1.2.",),
        outlier_rule="further off than 4 robust standard deviations",
        outliers=(Outlier(run_id="run-0-4e+11-1", name="n0-C4e+11-s1", row=None, log_residual=0.034, robust_sds=4.3),),
        data_digest="sha256:feed",
    )


def _structure() -> ResidualStructure:
    shapes = (("n_params", 0.41, 0.82), ("n_tokens", 0.004, 0.012), ("tokens_per_param", 0.6, 0.82))
    return ResidualStructure(
        axes=tuple(
            AxisStructure(
                axis=axis,  # type: ignore[arg-type]
                p_value=p_value,
                p_holm=p_holm,
                structured=p_holm < 0.05,
                at=(2e4, 1e5, 4e5),
                miss=(-0.001, 0.0, 0.004),
                shape="the law lies 0.4 % above the runs with the most tokens",
            )
            for axis, p_value, p_holm in shapes
        ),
        level=0.05,
        method="A slope and a bend along each axis were tested, trunks taken as one draw.",
    )


def _extrapolation(table: RunTable) -> Extrapolation:
    runs = table.usable.assign(compute=table.usable["n_params"] * table.usable["n_tokens"]).sort_values("compute")
    windows, forecasts = [], []
    for k, share in enumerate((0.3, 0.5, 0.75)):
        inside = runs.iloc[: int(share * len(runs))]
        largest = float(inside["compute"].max())
        beyond = runs[runs["compute"] > largest]
        skipped = "four sizes are needed, three are in it" if k == 0 else None
        windows.append(
            Window(
                max_compute=largest,
                n_runs=len(inside),
                n_predicted=len(beyond),
                rms_log_error=None if skipped else 0.012,
                skipped=skipped,
            )
        )
        for row in () if skipped else beyond.itertuples():
            distance = float(row.compute) / largest
            forecasts.append(
                WindowForecast(
                    run_id=str(row.run_id),
                    name=str(row.name),
                    window=k,
                    n_params=float(row.n_params),
                    n_tokens=float(row.n_tokens),
                    distance=distance,
                    log_error=float(np.log(truth(row.n_params, row.n_tokens) / row.loss)) + 0.01 * np.log(distance),
                    held_out=bool(row.held_out),
                )
            )
    return Extrapolation(
        windows=tuple(windows),
        forecasts=tuple(forecasts),
        residual_sd=0.0082,
        growth=0.006,
        max_distance=max(one.distance for one in forecasts),
    )


def _approaches(fit: Fit) -> Approaches:
    law = get_law("chinchilla")
    vector = law.as_vector(LAW)
    target = 1.6e13

    def approach(number: int, factor: float, params: dict[str, float], absent: dict[str, str]) -> Approach:
        n, d = (float(value) for value in law.compute_optimum(vector, target, FLOPS_PER_PARAM))

        def estimate(value: float, width: float) -> Estimate:
            return Estimate(value=value, ci95=Interval(lo=value / width, hi=value * width))

        return Approach(
            number=number,  # type: ignore[arg-type]
            name=("envelope", "isoflop", "surface")[number - 1],  # type: ignore[arg-type]
            counting="n_params",
            n_runs=41,
            n_opt_exponent=estimate(0.375, 1.1),
            d_opt_exponent=estimate(0.625, 1.1),
            n_opt=estimate(n * factor, 1.4),
            d_opt=estimate(d / factor, 1.4),
            loss=None if "loss" in absent else estimate(2.4, 1.02),
            params=params,
            ci95=None,
            objective="lsq_log",
            objective_value=0.02,
            resampling=fit.resampling,
            absent=absent,
            warnings=(),
        )

    points = []
    for flops in np.geomspace(BUDGETS[0], BUDGETS[-1], 25):
        n, d = (float(value) for value in law.compute_optimum(vector, flops, FLOPS_PER_PARAM))
        loss = float(truth(n, d))
        edge = flops < 1.3 * BUDGETS[0]
        points.append(EnvelopePoint(flops=float(flops), n_params=n, n_tokens=d, loss=loss, edge=edge))
    n, d = (float(value) for value in law.compute_optimum(vector, BUDGETS[2], FLOPS_PER_PARAM))
    params = {
        "n_opt_coefficient": n / BUDGETS[2] ** 0.375,
        "n_opt_exponent": 0.375,
        "d_opt_coefficient": d / BUDGETS[2] ** 0.625,
        "d_opt_exponent": 0.625,
    }
    return Approaches(
        flops=target,
        largest_flops=BUDGETS[-1],
        counting="n_params",
        flops_rule="7 N",
        approaches=(
            approach(1, 1.1, params, {"loss": "a curve of loss against compute takes 4 optima"}),
            approach(2, 0.9, params, {}),
            approach(3, 1.0, LAW, {}),
        ),
        envelope=Envelope(points=tuple(points), n_sizes=4),
        isoflop=None,
        n_opt_spread=1.22,
        excluded=(),
        warnings=("approach 1 passes through four sizes only",),
    )


def _recommendation(fit: Fit, lifetime: Lifetime) -> Recommendation:
    n_params = lifetime.lifetime_optimal.n_params

    def choice(factor: str, name: str, ratio: float | None, *, used: bool = False, why: str | None = None) -> Choice:
        n = None if ratio is None else n_params * ratio
        return Choice(
            factor=factor,  # type: ignore[arg-type]
            choice=name,
            used=used,
            joined=why is None,
            reason=why,
            n_params=n,
            n_tokens=None if n is None else 3e6,
            loss=None if n is None else lifetime.target_loss,
            cost=None if n is None else 700.0,
            ci95=None if n is None else {"n_params": Interval(lo=n / 1.3, hi=n * 1.4)},
            sd_log_n=None if n is None else 0.16,
        )

    choices = (
        choice("objective", "huber_log", 1.0, used=True),
        choice("objective", "lad_log", 0.97),
        choice("objective", "lsq", 1.2),
        choice("outliers", "kept", 1.0, used=True),
        choice("outliers", "dropped", 1.08),
        choice("law", "chinchilla", 1.0, used=True),
        choice("law", "kaplan", 2.1, why="its held-out error is three times the best law's"),
        choice("law", "skaling", None, why="41 runs can't identify six parameters"),
        choice("counting", "n_params", 1.0, used=True),
        choice("counting", "n_params_matmul", 0.93),
    )

    def added(factor: str, sd: float | None, reason: str) -> Contribution:
        span = None if sd is None else Interval(lo=n_params * (1 - sd), hi=n_params * (1 + sd))
        return Contribution(factor=factor, sd_log_n=sd, n_params=span, reason=reason)  # type: ignore[arg-type]

    return Recommendation(
        question=Question(
            kind="target_loss",
            value=lifetime.target_loss,
            unit="nats a token",
            demand_tokens=lifetime.demand_tokens,
            prompt_share=0.5,
            unique_tokens=None,
        ),
        fit=fit,
        costs=lifetime.costs,
        training_optimal=lifetime.training_optimal,
        lifetime_optimal=lifetime.lifetime_optimal,
        within_1pct=Interval(lo=n_params / 1.1, hi=n_params * 1.1),
        within_5pct=Interval(lo=n_params / 1.25, hi=n_params * 1.25),
        saved=0.13,
        break_even=lifetime.break_even,
        regret=tuple(
            Regret(
                factor=factor,
                demand_tokens=factor * lifetime.demand_tokens,
                n_params_best=n_params * factor**-0.15,
                extra_cost=extra,
                ci95=Interval(lo=0.5 * extra, hi=2 * extra),
            )
            for factor, extra in ((0.1, 0.06), (1.0, 0.0), (10.0, 0.17))
        ),
        limits=(),
        family=None,
        uncertainty=Uncertainty(
            decision="lifetime_optimal",
            counting="n_params",
            contributions=(
                added("sampling", 0.16, "over draws of whole trunks"),
                added("seed", None, "two sizes alone have several seeds"),
                added("objective", 0.09, "over three objectives"),
                added("outliers", 0.04, "with one outlier and without it"),
                added("law", 0.0, "one law is not rejected"),
                added("counting", 0.03, "over two counts of N"),
            ),
            choices=choices,
            joint={
                "n_params": Interval(lo=n_params / 1.5, hi=n_params * 1.7),
                "n_tokens": Interval(lo=2e6, hi=5e6),
                "loss": Interval(lo=lifetime.target_loss, hi=lifetime.target_loss),
                "cost": Interval(lo=500.0, hi=1100.0),
            },
            sd_log_n=0.2,
            draws=200,
        ),
        loss_forecast=Interval(lo=lifetime.target_loss - 0.05, hi=lifetime.target_loss + 0.05),
        extrapolation=None,
        outside_fitted_range=(),
        warnings=("prices were never named: costs stay in core-seconds",),
    )


def _frontier(table: RunTable) -> tuple[FrontierPoint, ...]:
    best, points = np.inf, []
    for row in table.usable.sort_values(["flops", "loss"]).itertuples():
        if row.loss < best:
            best = row.loss
            points.append(
                FrontierPoint(
                    run_id=row.run_id,
                    name=row.name,
                    n_params=row.n_params,
                    n_tokens=row.n_tokens,
                    flops=row.flops,
                    loss=row.loss,
                )
            )
    return tuple(points)


def _isoflop(table: RunTable) -> Isoflop:
    vertices = []
    for budget, bowl in table.usable.groupby("flops_budget"):
        cells = bowl.groupby("n_params").agg(
            n_tokens=("n_tokens", "mean"), loss=("loss", "mean"), runs=("loss", "size")
        )
        x = np.log(cells.index.to_numpy(dtype=float))
        c2, c1, c0 = np.polyfit(x - x.mean(), cells["loss"], 2)
        at = -c1 / (2 * c2) + x.mean()
        edge = not x[0] < at < x[-1] or int(np.argmin(cells["loss"])) in (0, len(x) - 1)
        n_opt = float(np.exp(at))
        vertices.append(
            IsoflopVertex(
                flops_budget=float(budget),
                points=tuple(
                    BowlPoint(
                        n_params=float(n), n_tokens=float(row.n_tokens), loss=float(row.loss), n_runs=int(row.runs)
                    )
                    for n, row in cells.iterrows()
                ),
                ln_n_centre=float(x.mean()),
                coefficients=(float(c0), float(c1), float(c2)),
                n_opt=n_opt,
                d_opt=float(budget) / (FLOPS_PER_PARAM * n_opt),
                loss=float(c0 - c1**2 / (4 * c2)),
                flag="the least loss is at the grid's edge" if edge else None,
            )
        )
    trusted = [vertex for vertex in vertices if vertex.flag is None]
    flops = np.geomspace(trusted[0].flops_budget / 1.5, trusted[-1].flops_budget * 1.5, 41)
    laws = {}
    for quantity in ("n_opt", "d_opt"):
        logs = np.log([getattr(vertex, quantity) for vertex in trusted])
        exponent, offset = np.polyfit(np.log([vertex.flops_budget for vertex in trusted]), logs, 1)
        mid = np.exp(offset) * flops**exponent
        laws[quantity] = PowerLaw(
            quantity=quantity,  # type: ignore[arg-type]
            coefficient=float(np.exp(offset)),
            exponent=float(exponent),
            exponent_ci95=Interval(lo=exponent - 0.1, hi=exponent + 0.1),
            band=Band(x_G=flops, mid_G=mid, lo_G=mid / 1.3, hi_G=mid * 1.3),
        )
    return Isoflop(vertices=tuple(vertices), n_opt=laws["n_opt"], d_opt=laws["d_opt"], skipped=())


def _rule(unit: str, slope: float, intercept: float = 0.0) -> TokenCost:
    return TokenCost(
        unit=unit,
        intercept=intercept,
        slope=slope,
        exponent=1.0,
        source="flops",
        rule=f"{slope:g} N",
        max_rel_error=0.0,
        n_params_G=np.array([]),
        measured_G=np.array([]),
    )


def _serving() -> Serving:
    sizes = np.array(SIZES)
    cost = 1e-5 + 6e-10 * sizes
    batches = tuple(
        BatchCost(
            phase="decode",
            batch=batch,
            t0_seconds=1e-5 * gain,
            seconds_per_param=6e-10 * gain,
            max_rel_error=0.01,
            n_params_G=sizes,
            seconds_per_token_G=cost * gain,
        )
        for batch, gain in ((1, 32.0), (None, 1.0))
    )
    return Serving(
        device="one core",
        dtype="float32",
        threads=1,
        prompt_tokens=64,
        output_tokens=64,
        prompt_share=0.5,
        batches=batches,
        per_token=_rule("core-seconds", 4e-10, 6e-6),
        left_out=(),
    )


def _lifetime(draws: np.ndarray) -> Lifetime:
    target = 2.75
    costs = Costs(
        unit="core-seconds",
        source="measured",
        train=_rule("core-seconds", 1.6e-9, 6e-6),
        serve=_rule("core-seconds", 4e-10, 6e-6),
    )
    law = get_law("chinchilla")
    demand = np.geomspace(1e5, 1e9, 81)
    sizes = np.geomspace(2e4, 1.2e6, 400)

    def optimum(params: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        tokens = law.tokens_for_loss(params, sizes, target)
        cost = (costs.train(sizes) * tokens)[None, :] + costs.serve(sizes)[None, :] * demand[:, None]
        best = cost.argmin(1)
        return sizes[best], tokens[best], cost.min(1)

    vector = law.as_vector(LAW)
    n_mid, d_mid, cost_mid = optimum(vector)
    sampled = [optimum(draw) for draw in draws[:100]]
    bands = [
        Band(
            x_G=demand,
            mid_G=mid,
            lo_G=np.quantile([s[k] for s in sampled], 0.025, 0),
            hi_G=np.quantile([s[k] for s in sampled], 0.975, 0),
        )
        for k, mid in enumerate((n_mid, d_mid, cost_mid))
    ]
    lines = []
    for n in SIZES[:-1]:
        tokens = float(law.tokens_for_loss(vector, n, target))
        if np.isfinite(tokens):
            lines.append(
                SizeLine(n_params=n, n_tokens=tokens, cost_G=costs.train(n) * tokens + costs.serve(n) * demand)
            )
    crossings = []
    for small, large in pairwise(lines):
        dearer = costs.train(small.n_params) * small.n_tokens - costs.train(large.n_params) * large.n_tokens
        saved = costs.serve(large.n_params) - costs.serve(small.n_params)
        crossings.append(
            BreakEven(
                small=small.n_params, large=large.n_params, demand_tokens=max(0.0, float(dearer / saved)), ci95=None
            )
        )
    levels = np.linspace(2.55, 3.3, 20)
    ridge_n = np.geomspace(6e5, 3e4, 20)
    ridges = [
        Ridge(loss_G=levels, n_params_G=ridge_n * f, n_tokens_G=law.tokens_for_loss(vector, ridge_n * f, levels))
        for f in (1.0, 0.7)
    ]

    def at(k: int) -> Optimum:
        ci95 = {
            name: Interval(lo=float(band.lo_G[k]), hi=float(band.hi_G[k]))
            for name, band in zip(("n_params", "n_tokens", "cost"), bands, strict=True)
        }
        return Optimum(
            n_params=float(n_mid[k]),
            n_tokens=float(d_mid[k]),
            loss=target,
            cost=float(cost_mid[k]),
            unit="core-seconds",
            ci95=ci95,
            outside_fitted_range=(),
        )

    return Lifetime(
        target_loss=target,
        costs=costs,
        demand_tokens_G=demand,
        n_params=bands[0],
        n_tokens=bands[1],
        cost=bands[2],
        within_1pct_G2=np.stack([n_mid / 1.2, n_mid * 1.2], 1),
        within_5pct_G2=np.stack([n_mid / 1.5, n_mid * 1.5], 1),
        training_optimal=at(0),
        demand_tokens=float(demand[40]),
        lifetime_optimal=at(40),
        sizes=tuple(lines),
        break_even=tuple(crossings),
        training_ridge=ridges[0],
        lifetime_ridge=ridges[1],
        extrapolated_G=demand > 2e8,
    )


def _k_curve() -> KCurve:
    ratio = LAW["beta"] / LAW["alpha"]
    asymptote = (1 + 1 / ratio) ** (-1 / LAW["alpha"])
    k_n = np.linspace(asymptote * 1.005, 1.0, 100)
    k_d = (1 - ratio * (k_n ** -LAW["alpha"] - 1)) ** (-1 / LAW["beta"])
    return KCurve(k_n_G=k_n, k_d_G=k_d, overhead_G=k_n * k_d - 1, asymptote=float(asymptote))


def _pairs(table: RunTable) -> tuple[MatchedPair, ...]:
    def side(n: float, tokens: float, name: str, loss: float) -> PairSide:
        return PairSide(
            run_id=name,
            name=name,
            n_params=n,
            n_tokens=tokens,
            loss=loss,
            train_flops=FLOPS_PER_PARAM * n * tokens,
            train_seconds=tokens * (6e-6 + 1.6e-9 * n),
            decode_tokens_per_second_batch_1=1 / (32 * (1e-5 + 6e-10 * n)),
            decode_tokens_per_second_saturated=1 / (1e-5 + 6e-10 * n),
            serve_seconds_per_token=6e-6 + 4e-10 * n,
        )

    frame = table.usable.set_index("run_id")
    small_row, large_row = frame.loc["run-1-8e+11-0"], frame.loc["run-2-4e+11-0"]
    small = side(SIZES[1], float(small_row["n_tokens"]), str(small_row["name"]), 2.741)
    large = side(SIZES[2], float(large_row["n_tokens"]), str(large_row["name"]), 2.744)
    assert small.train_seconds is not None
    assert large.train_seconds is not None
    assert small.serve_seconds_per_token is not None
    assert large.serve_seconds_per_token is not None
    crossing = (small.train_seconds - large.train_seconds) / (
        large.serve_seconds_per_token - small.serve_seconds_per_token
    )
    return (
        MatchedPair(
            kind="measured",
            small=small,
            large=large,
            loss_gap=-0.003,
            tolerance=0.02,
            tolerance_source="seeds",
            train_flops_ratio=2.0,
            train_seconds_ratio=small.train_seconds / large.train_seconds,
            speedup_batch_1=1.6,
            speedup_saturated=1.61,
            break_even_tokens=crossing,
            break_even_range=Interval(lo=0.8 * crossing, hi=1.3 * crossing),
            serving_gap=None,
            extrapolated=(),
        ),
    )
