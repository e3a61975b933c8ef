"""What a person should know before spending: the plan's warnings."""

from __future__ import annotations

from collections.abc import Sequence

from llama.accounting import count_parameters
from llama.data.repetition import EPOCHS_WORTH_NEW
from sweeps.designs.design import Design, PlannedRun
from sweeps.hardware.calibration import Calibration
from sweeps.planning.records import DomainPlan, PlanWarning, SizePlan
from sweeps.words import count

#: The best learning rate falls about as the horizon^-0.3 (Bjorck et al. 2024): four times as long is 1.5 times off.
FAR_BEYOND = 4.0

#: A cooldown this much longer than the recipe's share is another recipe.
LONG_COOLDOWN = 1.25

#: A tuned law's exponents come from the range tried: ten times beyond it an error of 0.1 in one is a quarter of the rate.
FAR_FROM_TUNED = 10.0


def warnings_of(
    design: Design, domains: Sequence[DomainPlan], calibration: Calibration, *, timed: bool
) -> list[PlanWarning]:
    """What the design itself and its speeds should make a person think twice."""
    spec, found = design.spec, []
    finals = [run for run in design.runs if not run.record.is_trunk]
    for domain in domains:
        if domain.longest_run_epochs > EPOCHS_WORTH_NEW:
            found.append(
                PlanWarning(
                    code="epochs",
                    message=f"domain {domain.domain}: the longest run reads its {domain.train_tokens:,} tokens "
                    f"{domain.longest_run_epochs:.1f} times; beyond {EPOCHS_WORTH_NEW:.0f} epochs repeated tokens are worth "
                    "less than new ones (Muennighoff et al. 2023): add text, lower its weight, or lower the budgets",
                )
            )
    empty = [size for size in design.models if all(run.size != size for run in finals)]
    if empty:
        found.append(PlanWarning(code="empty_size", message=_why_empty(design, empty)))
    found += _batch_warnings(design, finals)
    found += _horizon_warnings(design, finals)
    found += _cooldown_warnings(finals)
    found += _tuned_warnings(design, finals)
    ratios = {round(run.tokens / count_parameters(run.config.model).n_params, 1) for run in finals}
    if len(finals) > 1 and (len(design.models) - len(empty) < 2 or max(ratios) < 1.5 * min(ratios)):
        found.append(
            PlanWarning(
                code="identifiability",
                message="runs of one size, or at one ratio of tokens to parameters, cannot identify a scaling law: "
                "vary both, for instance with budgets.flops",
            )
        )
    share = spec.evaluation.validation_tokens // len(spec.weights)
    short = [domain for domain in spec.weights if design.corpus.validation_tokens[domain] < share]
    if short:
        found.append(
            PlanWarning(
                code="validation",
                message=f"domain {', '.join(short)} has fewer held-out tokens than its share {share:,} of "
                "evaluation.validation_tokens: raise corpus.held_out_fraction, or ask for fewer",
            )
        )
    if calibration.problem:
        found.append(PlanWarning(code="calibration", message=calibration.problem))
    elif not timed:
        how = "--calibrate measures this machine" if spec.trainer is None else "finished runs of the command will tell"
        found.append(PlanWarning(code="calibration", message=f"no measured speed near every size: {how}"))
    return found


def gpus_warnings(design: Design, gpus: float) -> list[PlanWarning]:
    """More GPUs for a run than our own trainer uses."""
    if gpus <= 1 or design.spec.trainer is not None:
        return []
    message = (
        f"resources.gpus is {gpus:g}: isoloss trains a run on one GPU; the plan is that of a trainer that divides weights, "
        "optimizer state and batch among them at no cost"
    )
    return [PlanWarning(code="gpus", message=message)]


def memory_warnings(sizes: Sequence[SizePlan], slots: int, memory_bytes: int | None) -> list[PlanWarning]:
    """Runs on a CPU that together take more than the machine has."""
    if memory_bytes is None or not sizes:
        return []
    largest = max(sizes, key=lambda size: size.memory_bytes)
    if slots * largest.memory_bytes <= memory_bytes:
        return []
    alone = largest.memory_bytes > memory_bytes
    return [
        PlanWarning(
            code="memory",
            message=f"{'a run' if alone else f'{slots} runs at once'} of {largest.size} take up to "
            f"{(1 if alone else slots) * largest.memory_bytes / 1e9:,.1f} GB of the {memory_bytes / 1e9:,.1f} GB here: lower "
            "micro_batch, set activation_checkpointing: selective, or give a run more resources.cpus, so that fewer go at once",
        )
    ]


def _why_empty(design: Design, empty: Sequence[str]) -> str:
    """Sizes whose every cell is left out, and those that no part of the budgets names."""
    named = [
        size for size in empty if any(part.wanted(size, design.models[size].d_model) for part in design.spec.parts)
    ]
    unnamed = [size for size in empty if size not in named]
    parts = [f"no budget is left for {', '.join(named)}: see what is left out"] if named else []
    parts += [f"no cell of budgets names {', '.join(unnamed)}, which has no runs"] if unnamed else []
    return "; ".join(parts)


def _batch_warnings(design: Design, finals: Sequence[PlannedRun]) -> list[PlanWarning]:
    """A batch holds whole sequences, whatever was asked."""
    asked, context = design.spec.recipe.batch_tokens, design.spec.ladder.context_length
    used = finals[0].config.batch_tokens
    if asked is None or asked == used:
        return []
    message = (
        f"recipe.batch_tokens is {asked:,}: a batch holds whole sequences of {context:,}, so that {used:,} are used"
    )
    return [PlanWarning(code="batch", message=message)]


def _horizon_warnings(design: Design, finals: Sequence[PlannedRun]) -> list[PlanWarning]:
    """A trunk that runs far beyond the horizon its rule was given has too high a rate at its end."""
    horizons = {size: design.spec.reference_tokens(model) for size, model in design.models.items()}
    beyond = {
        run.size for run in finals if (horizon := horizons[run.size]) is not None and run.tokens > FAR_BEYOND * horizon
    }
    if not beyond:
        return []
    sizes = ", ".join(size for size in design.models if size in beyond)
    message = (
        f"budgets over {FAR_BEYOND:g} times recipe.reference_budget at {sizes}: the learning rate is "
        "set for a much shorter run"
    )
    return [PlanWarning(code="horizon", message=message)]


def _cooldown_warnings(finals: Sequence[PlannedRun]) -> list[PlanWarning]:
    """A cooldown begins at a log point, which for a branch far shorter than its trunk's horizon may be far too early."""
    longer = []
    for run in finals:
        config = run.config
        if config.steps is None or config.fork_step is None:
            continue
        wanted, steps = config.recipe.cooldown_steps(config.steps), config.steps - config.fork_step
        if steps > LONG_COOLDOWN * wanted > 0:
            longer.append((steps / wanted, run.record.name, steps, wanted))
    if not longer:
        return []
    _, worst, steps, wanted = max(longer)
    message = (
        f"the cooldown of {count(len(longer), 'run')} is longer than the recipe's, at most {worst}'s: {steps:,} steps instead "
        f"of {wanted:,}, since a branch forks at a log point, a hundredth of recipe.reference_budget: lower that, or leave out "
        "the smallest budgets"
    )
    return [PlanWarning(code="cooldown", message=message)]


def _tuned_warnings(design: Design, finals: Sequence[PlannedRun]) -> list[PlanWarning]:
    """A tuned law carried far beyond the sizes and tokens that its study tried."""
    law = design.spec.recipe.tuned
    if law is None:
        return []
    far = {
        run.size
        for run in finals
        if max(law.n.distance(law.size(run.config.model)), law.d.distance(run.config.recipe.reference_tokens))
        > FAR_FROM_TUNED
    }
    if not far:
        return []
    sizes = ", ".join(size for size in design.models if size in far)
    message = (
        f"recipe.tuned comes from {law.n.low:,} to {law.n.high:,} parameters ({law.counting}) and {law.d.low:,} to "
        f"{law.d.high:,} tokens ({law.study}); {sizes}: more than {FAR_FROM_TUNED:g} times beyond"
    )
    return [PlanWarning(code="tuned", message=message)]
