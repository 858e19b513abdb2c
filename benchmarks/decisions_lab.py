"""False alarms and speed of release rules in the lab: requests that are independent given their version's rate.

10% of 50,000 requests go to the candidate, with a look every 200. A rule is judged by how often it gives a good candidate's
traffic back (false alarm) and by how many requests the candidate answered before a bad one's was (median over all runs;
a run without rollback counts as never). Beside each figure stands the standard error of the simulation.

Peers are written from their documented behaviour:

* Flagger (docs, "Metrics Analysis" and "How it works"): a check fails when the success rate over its interval is below
  the minimum; the release is rolled back when the number of failed checks reaches the threshold.
* z-test: pooled two-proportion test at one-sided 95%, read at every look.
* Kayenta (Spinnaker docs, "How canary judgment works"; judge defaults): Mann-Whitney over the points of both series with
  98% confidence; the metric is High when the confidence interval of the shift lies above 25% of the Hodges-Lehmann
  estimate, and it has increased.
* GrowthBook (docs, "Sequential Testing"): asymptotic confidence sequence around the difference of means, tuning
  parameter 5,000; here one-sided at 5%.
* Oracle: our evidence, if it knew the true odds ratio and when the candidate turns bad. No rule can know them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp
from scipy.stats import norm

from mlflow_istio.core.analysis import betting, log_likelihood
from mlflow_istio.core.analysis.hypergeometric import log_normaliser
from mlflow_istio.core.analysis.rate_test import log_ratios

ALPHA = 0.05
LOOK = 200
LOOKS = 250

Counts = NDArray[np.int64]
Alarms = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scenario:
    """What the traffic is like.

    Attributes:
        name: Column heading.
        stable: The stable's error rate, at each look or one for all.
        candidate: The candidate's.
        share: The candidate's share of the requests.
        bad_from: The look from which the candidate is bad; None if it is as good as the stable.
    """

    name: str
    stable: Sequence[float]
    candidate: Sequence[float]
    share: Sequence[float] = (0.1,)
    bad_from: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Simulated counts, shape (runs, LOOKS), and the true rates."""

    scenario: Scenario
    candidate_total: Counts
    candidate_events: Counts
    stable_total: Counts
    stable_events: Counts


QUARTERS = np.repeat([0, 1, 2, 3], [63, 62, 63, 62])
RAMP_SHARE = np.array([0.05, 0.10, 0.25, 0.50])[QUARTERS].tolist()
RAMP_RATE = np.array([0.005, 0.01, 0.02, 0.03])[QUARTERS].tolist()
LATE_FROM = 100
SCENARIOS = (
    Scenario(name="false alarm 1%", stable=(0.01,), candidate=(0.01,)),
    Scenario(name="false alarm 0.1%", stable=(0.001,), candidate=(0.001,)),
    Scenario(name="false alarm ramp", stable=RAMP_RATE, candidate=RAMP_RATE, share=RAMP_SHARE),
    Scenario(name="1->2%", stable=(0.01,), candidate=(0.02,), bad_from=0),
    Scenario(name="1->5%", stable=(0.01,), candidate=(0.05,), bad_from=0),
    Scenario(name="0.1->1%", stable=(0.001,), candidate=(0.01,), bad_from=0),
    Scenario(
        name="1->5% late",
        stable=(0.01,),
        candidate=[0.01] * LATE_FROM + [0.05] * (LOOKS - LATE_FROM),
        bad_from=LATE_FROM,
    ),
)


def simulate(scenario: Scenario, runs: int, rng: np.random.Generator) -> Traffic:
    """Draw traffic: each request goes to the candidate with its share and fails with its version's rate."""
    stable, candidate, share = (
        np.broadcast_to(np.asarray(value, dtype=np.float64), (LOOKS,))
        for value in (scenario.stable, scenario.candidate, scenario.share)
    )
    candidate_total = rng.binomial(LOOK, share, size=(runs, LOOKS))
    stable_total = LOOK - candidate_total
    return Traffic(
        scenario=scenario,
        candidate_total=candidate_total,
        candidate_events=rng.binomial(candidate_total, candidate),
        stable_total=stable_total,
        stable_events=rng.binomial(stable_total, stable),
    )


def blocks(counts: Counts, looks: int) -> Counts:
    """Sum every `looks` looks: shape (runs, LOOKS // looks)."""
    return np.asarray(counts.reshape(len(counts), -1, looks).sum(axis=2))


def at_block_ends(alarms: Alarms, looks: int) -> Alarms:
    """Put alarms raised once per block at the block's last look: shape (runs, LOOKS)."""
    spread = np.zeros((len(alarms), LOOKS), dtype=np.bool_)
    spread[:, looks - 1 :: looks] = alarms
    return spread


def flagger(traffic: Traffic, *, success: float, check_every: int, failed_checks: int = 5) -> Alarms:
    """Roll back at the fifth check whose success rate is below the minimum."""
    looks = check_every // LOOK
    total, events = blocks(traffic.candidate_total, looks), blocks(traffic.candidate_events, looks)
    failed = (total > 0) & (events > (1 - success) * total + 1e-9)
    return at_block_ends(failed.cumsum(axis=1) >= failed_checks, looks)


def z_test(traffic: Traffic) -> Alarms:
    """Roll back at any look at which the pooled z-test says worse at one-sided 95%."""
    n_c, x_c, n_b, x_b = cumulated(traffic)
    pooled = (x_c + x_b) / (n_c + n_b)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (x_c / n_c - x_b / n_b) / np.sqrt(pooled * (1 - pooled) * (1 / n_c + 1 / n_b))
    return np.asarray(z > norm.ppf(1 - ALPHA))


def kayenta(traffic: Traffic, *, point: int = 1000, judge_every: int = 5000) -> Alarms:
    """Judge all points so far, a point per 1,000 requests, every 5,000 requests."""
    per_point, per_judgement = point // LOOK, judge_every // point
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = [
            np.nan_to_num(blocks(events, per_point) / blocks(total, per_point))
            for events, total in (
                (traffic.candidate_events, traffic.candidate_total),
                (traffic.stable_events, traffic.stable_total),
            )
        ]
    points = rates[0].shape[1]
    judged = [
        judged_high(rates[0][:, :end], rates[1][:, :end]) for end in range(per_judgement, points + 1, per_judgement)
    ]
    return at_block_ends(np.stack(judged, axis=1), judge_every // LOOK)


def judged_high(candidate: NDArray[np.float64], stable: NDArray[np.float64]) -> Alarms:
    """Tell for each run (row) whether the metric is High.

    The lower end of the 98% interval of the shift exceeds a value exactly when the test, with the candidate shifted down by
    it, still rejects at one-sided 99%; so no interval need be searched for.
    """
    gaps = candidate[:, :, None] - stable[:, None, :]
    estimate = np.median(gaps.reshape(len(gaps), -1), axis=1)
    shift = 0.25 * np.abs(estimate)
    shifted = gaps - shift[:, None, None]
    wins = (shifted > 1e-12).sum(axis=(1, 2)) + 0.5 * (np.abs(shifted) <= 1e-12).sum(axis=(1, 2))
    n, m = candidate.shape[1], stable.shape[1]
    both = np.concatenate([candidate - shift[:, None], stable], axis=1)
    ties = (np.abs(both[:, :, None] - both[:, None, :]) <= 1e-12).sum(axis=2).astype(np.float64)
    # Sum of t^3 - t over groups of t equal values, one term per value.
    tied = (ties**2 - 1).sum(axis=1)
    variance = n * m / 12 * ((n + m + 1) - tied / ((n + m) * (n + m - 1)))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (wins - n * m / 2 - 0.5) / np.sqrt(variance)
    increased = candidate.mean(axis=1) >= stable.mean(axis=1)
    return np.asarray((variance > 0) & (z >= norm.ppf(0.99)) & increased)


def growthbook(traffic: Traffic, *, tuning: float = 5000) -> Alarms:
    """Roll back when the one-sided confidence sequence of the difference of rates is above 0."""
    n_c, x_c, n_b, x_b = cumulated(traffic)
    n = n_c + n_b
    with np.errstate(divide="ignore", invalid="ignore"):
        p_c, p_b = x_c / n_c, x_b / n_b
        variance = n * (p_c * (1 - p_c) / n_c + p_b * (1 - p_b) / n_b)
        alpha = 2 * ALPHA
        rho = tuning * variance / (2 * np.log(1 / alpha) + np.log(1 + 2 * np.log(1 / alpha)))
        spread = variance * n + rho
        radius = np.sqrt(spread * np.log(spread / (rho * alpha**2))) / n
        return np.asarray((p_c - p_b > radius) & (variance > 0))


def oracle(traffic: Traffic) -> Alarms:
    """Bet everything, from the look the candidate turns bad, on the true odds ratio."""
    start = traffic.scenario.bad_from
    if start is None:
        return np.zeros(traffic.candidate_total.shape, dtype=np.bool_)
    p_c, p_b = traffic.scenario.candidate[-1], traffic.scenario.stable[-1]
    true = float(np.log(p_c / (1 - p_c)) - np.log(p_b / (1 - p_b)))
    gains = gained(traffic, [true])[..., 0]
    gains[:, :start] = 0.0
    return np.asarray(gains.cumsum(axis=1) >= -np.log(ALPHA))


def curves(traffic: Traffic) -> tuple[NDArray[np.float64], Counts]:
    """Return the log-normaliser of each distinct interval (rows) and which row each look has."""
    events = traffic.candidate_events + traffic.stable_events
    kinds, rows = np.unique(traffic.candidate_total * (LOOK + 1) + events, return_inverse=True)
    table = [
        log_normaliser(
            int(kind) // (LOOK + 1), LOOK - int(kind) // (LOOK + 1), int(kind) % (LOOK + 1), log_likelihood.NODE_POINTS
        )
        for kind in kinds
    ]
    return np.array(table), rows.reshape(events.shape)


def gained(traffic: Traffic, log_odds_ratios: Sequence[float]) -> NDArray[np.float64]:
    """Return each look's log-likelihood ratio of the alternatives to "equal": shape (runs, LOOKS, alternatives)."""
    table, rows = curves(traffic)
    matrix = log_likelihood.interpolation_matrix((0.0, *log_odds_ratios))
    normaliser = table @ matrix.T
    gain = traffic.candidate_events[..., None] * np.asarray(log_odds_ratios)
    return np.asarray(gain - (normaliser[:, 1:] - normaliser[:, :1])[rows])


def exact_evidence(traffic: Traffic) -> NDArray[np.float64]:
    """Return `RateTest().log_e_value` at each look: the same functions, on all runs at once; shape (runs, LOOKS)."""
    table, rows = curves(traffic)
    events = traffic.candidate_events + traffic.stable_events
    informative = np.minimum(traffic.candidate_total, events) > np.maximum(0, events - traffic.stable_total)
    stake = np.tile(betting.opening_stake(betting.LATE), (len(rows), 1))
    intervals = np.zeros(len(rows), dtype=np.int64)
    evidence = np.zeros(rows.shape)
    for look in range(LOOKS):
        ratios = log_ratios(table[rows[:, look]], traffic.candidate_events[:, look], margin=1.0, overdispersion=1.0)
        updated = betting.bet(stake, ratios, intervals=intervals, late=betting.LATE)
        stake = np.where(informative[:, look, None], updated, stake)
        intervals = intervals + informative[:, look]
        evidence[:, look] = betting.log_evidence(stake, intervals=intervals, late=betting.LATE)
    return evidence


def our_rule(traffic: Traffic) -> Alarms:
    """Roll back at `RateTest().e_value >= 1/alpha`: what is left of our rule where requests are independent (`phase=0`)."""
    return np.asarray(exact_evidence(traffic) >= -np.log(ALPHA))


def plain_rule(traffic: Traffic) -> Alarms:
    """The same evidence with everything bet at once, log-uniform on odds ratios 1.25-100."""
    points = np.linspace(np.log(1.25), np.log(100.0), 40)
    log_e = logsumexp(gained(traffic, points.tolist()).cumsum(axis=1), axis=2) - np.log(len(points))
    return np.asarray(log_e >= -np.log(ALPHA))


def cumulated(traffic: Traffic) -> tuple[Counts, Counts, Counts, Counts]:
    """Return all four counts since the start."""
    counts = (traffic.candidate_total, traffic.candidate_events, traffic.stable_total, traffic.stable_events)
    n_c, x_c, n_b, x_b = (np.asarray(count.cumsum(axis=1)) for count in counts)
    return n_c, x_c, n_b, x_b


RULES: dict[str, Callable[[Traffic], Alarms]] = {
    "Flagger >= 99%, 5 failed checks, check/200": lambda traffic: flagger(traffic, success=0.99, check_every=200),
    "Flagger >= 97%, 5 failed checks, check/2,000": lambda traffic: flagger(traffic, success=0.97, check_every=2000),
    "z-test at 95%, peeking": z_test,
    "Kayenta judge, point = 1k requests, look/5k": kayenta,
    "GrowthBook-style one-sided sequence": growthbook,
    "plain log-uniform bet on 1.25-100": plain_rule,
    "ours (RateTest)": our_rule,
    "oracle that knows the effect": oracle,
}
OURS = "ours (RateTest)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One cell: the share of runs rolled back and the median requests until then, each with its standard error."""

    rolled_back: float
    rolled_back_error: float
    median: float
    median_error: float


def measure(alarms: Alarms, traffic: Traffic) -> Figure:
    """Return the figures of one rule; runs with an alarm before the candidate turned bad are left out."""
    start = traffic.scenario.bad_from or 0
    kept = ~alarms[:, :start].any(axis=1)
    if kept.mean() < 0.5:
        return Figure(rolled_back=np.nan, rolled_back_error=np.nan, median=np.nan, median_error=np.nan)
    late = alarms[kept, start:]
    answered = traffic.candidate_total[kept, start:].cumsum(axis=1)
    hit = np.asarray(late.any(axis=1))
    first = np.where(hit, answered[np.arange(hit.size), late.argmax(axis=1)], np.inf)
    runs = hit.size
    ordered = np.sort(first)
    # The ranks one standard error of a binomial(runs, 1/2) around the middle bound the median by one standard error.
    low, high = (int(np.clip(runs / 2 + side * np.sqrt(runs) / 2, 0, runs - 1)) for side in (-1, 1))
    shrunk = (hit.sum() + 1) / (runs + 2)
    return Figure(
        rolled_back=float(hit.mean()),
        rolled_back_error=float(np.sqrt(shrunk * (1 - shrunk) / runs)),
        median=float(ordered[runs // 2]),
        median_error=float((ordered[high] - ordered[low]) / 2) if np.isfinite(ordered[high]) else np.inf,
    )


def cell(scenario: Scenario, figure: Figure) -> str:
    """Return a cell's text."""
    share = f"{100 * figure.rolled_back:.1f} ±{100 * figure.rolled_back_error:.1f}%"
    if scenario.bad_from is None:
        return share
    if np.isnan(figure.median):
        return "false alarm first"
    if not np.isfinite(figure.median):
        return f"never ({100 * figure.rolled_back:.0f}%)"
    text = f"{figure.median:,.0f} ±{figure.median_error:,.0f}"
    return text if figure.rolled_back > 0.995 else f"{text} ({100 * figure.rolled_back:.0f}%)"


def ratio(figure: Figure, ours: Figure) -> str:
    """Return how many times our requests this rule needed."""
    if np.isnan(figure.median):
        return "-"
    return f"{figure.median / ours.median:.2f}" if np.isfinite(figure.median) else "never"


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    lines = [heading, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def report(runs: int, seed: int) -> str:
    """Simulate everything and return both tables and what they show."""
    figures: dict[str, list[Figure]] = {name: [] for name in RULES}
    for number, scenario in enumerate(SCENARIOS):
        traffic = simulate(scenario, runs, np.random.default_rng([seed, number]))
        for name, rule in RULES.items():
            figures[name].append(measure(rule(traffic), traffic))
    bad = [number for number, scenario in enumerate(SCENARIOS) if scenario.bad_from is not None]
    good = [number for number, scenario in enumerate(SCENARIOS) if scenario.bad_from is None]
    honest = [
        name
        for name in RULES
        if all(row.rolled_back <= ALPHA + 2 * row.rolled_back_error for row in (figures[name][at] for at in good))
    ]
    heading = ["rule", *(scenario.name for scenario in SCENARIOS)]
    cells = [
        [name, *(cell(scenario, figure) for scenario, figure in zip(SCENARIOS, row, strict=True))]
        for name, row in figures.items()
    ]
    cells[-1] = [text if number - 1 not in good else "" for number, text in enumerate(cells[-1])]
    ratios = [
        [name, "yes" if name in honest else "no", *(ratio(figures[name][at], figures[OURS][at]) for at in bad)]
        for name in RULES
    ]
    ratio_heading = ["rule", f"false alarms <= {ALPHA:.0%}", *(SCENARIOS[at].name for at in bad)]
    return "\n".join(
        [
            f"{runs:,} runs, seed {seed}; false alarms in %, then candidate requests until rollback (median, share of",
            "runs rolled back where not all); ± is one standard error of the simulation.",
            "",
            table(heading, cells),
            "",
            f"Requests until rollback as a multiple of {OURS}, same traffic:",
            "",
            table(ratio_heading, ratios),
        ]
    )
