"""How fast is a decision, and how good? Speed over 100 models; quality and cost on a table of prompts × models.

    python bench/selection.py [--decisions 20000] [--calls 20000] [--seeds 3]

Speed: `fresh` is `choose.decide` alone, the facts of 100 models changing under it; `kept` takes an order that was
worked out just before for the same need, as the decision cache does. One process, no I/O; wall clock, and CPU
alone where other work runs beside it.

Worth: a made-up table of prompts and eight models, with quality, cost and latency. After a third of the calls one model
gets worse (drift), in the middle the best one is down for a while (outage), after two thirds a cheap one gets five
times as dear (price change). Three of ten answers are judged. `oracle` knows each answer beforehand; `best single` is
the one model whose answers are best over the whole run, known in hindsight, with the next best where it is down; `kNN`
has seen the quality of all models on 1 000 prompts before the run, and learns nothing after. `cold` begins without a
judgement, `warm` with 60 judged answers for each model and class. Intervals are 95 %, from resampled blocks of 200
calls.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from gimle.selection import choose, policies
from gimle.selection.balance import RoundRobin
from gimle.selection.board import Board
from gimle.selection.decision import Moment
from gimle.selection.factors import References
from gimle.selection.policies import Level, Policy
from gimle.selection.quality import Judgement, Judgements
from gimle.selection.table import Table
from gimle.selection.types import Complexity, Model, Need

Matrix = npt.NDArray[np.float64]

NOW = 1_700_000_000.0
LEVELS: tuple[Level, ...] = ("easy", "medium", "hard")
# What a perfect answer is worth; oracle and kNN weigh cost by this.
WORTH_USD = 0.2
TOKENS, OUTPUT = 800, 400
_JUDGED = 0.3
_EXPLORED = 0.01
_BLOCK = 200

# name, parameters, USD a million tokens in and out, skill, seconds to the first token
MODELS = (
    ("lab/giant", 400e9, 5.0, 15.0, 3.6, 0.9),
    ("lab/large", 120e9, 2.0, 8.0, 3.1, 0.6),
    ("lab/small", 20e9, 0.3, 1.2, 2.0, 0.3),
    ("host/open-120b", 120e9, 0.15, 0.6, 2.6, 0.5),
    ("host/open-70b", 70e9, 0.6, 0.8, 2.4, 0.4),
    ("host/open-8b", 8e9, 0.05, 0.08, 1.2, 0.2),
    ("edge/mini", 4e9, 0.1, 0.3, 0.6, 0.25),
    ("home/7b", 7e9, 0.0, 0.0, 1.0, 0.8),
)


class World(msgspec.Struct, frozen=True):
    """The table: for each call and model its quality (0 to 1) and cost (USD), and what of the prompt can be seen."""

    quality: Matrix
    cost: Matrix
    seconds: Matrix
    down: npt.NDArray[np.bool_]
    levels: npt.NDArray[np.intp]
    features: Matrix


class Run(msgspec.Struct, frozen=True):
    """What one way to choose came to, a call each."""

    quality: Matrix
    cost: Matrix
    seconds: Matrix

    @property
    def value(self) -> Matrix:
        """Quality less cost."""
        return self.quality - self.cost / WORTH_USD


def world(calls: int, seed: int) -> World:
    """Draw a table with drift, an outage and a price change."""
    draw = np.random.default_rng(seed)
    difficulty = draw.beta(1.3, 1.8, calls)
    topic = draw.normal(0, 1, (calls, 3))
    taste = draw.normal(0, 0.35, (3, len(MODELS)))
    skill = np.array([model[4] for model in MODELS])
    skills = np.tile(skill, (calls, 1))
    skills[calls // 3 :, 3] -= 1.2
    noise = draw.normal(0, 0.4, (calls, len(MODELS)))
    # What a model can do shows in hard prompts; easy ones almost all answer.
    quality = 1 / (1 + np.exp(-(4.0 - difficulty[:, None] * (9.0 - 1.4 * skills) + topic @ taste + noise)))
    usd = np.array([(TOKENS * model[2] + OUTPUT * model[3]) / 1e6 for model in MODELS])
    cost = np.tile(usd, (calls, 1))
    cost[2 * calls // 3 :, 5] *= 5
    seconds = np.array([model[5] for model in MODELS]) * draw.lognormal(0, 0.4, (calls, len(MODELS)))
    down = np.zeros((calls, len(MODELS)), dtype=np.bool_)
    down[calls // 2 : calls // 2 + calls // 15, 0] = True
    # What the classifier of prompts makes of it, and what an embedding would show, are both noisy.
    levels = np.digitize(difficulty + draw.normal(0, 0.12, calls), (0.3, 0.6))
    features = np.column_stack([difficulty + draw.normal(0, 0.12, calls), 0.3 * topic, draw.normal(0, 0.2, (calls, 4))])
    return World(quality, cost, seconds, down, levels, features)


def served(given: World, ranked: Callable[[int], list[int]]) -> Run:
    """Take each call to the first of the ranked models that is not down."""
    calls = len(given.quality)
    who = [next(m for m in ranked(call) if not given.down[call, m]) for call in range(calls)]
    rows = np.arange(calls)
    return Run(given.quality[rows, who], given.cost[rows, who], given.seconds[rows, who])


def oracle(given: World) -> Run:
    """Who is best for each call, known beforehand."""
    order = np.argsort(-(given.quality - given.cost / WORTH_USD), axis=1)
    return served(given, lambda call: order[call].tolist())


def best_single(given: World) -> Run:
    """The model whose answers are best over the run, and the next best where it is down."""
    order: list[int] = np.argsort(-given.quality.mean(axis=0)).tolist()
    return served(given, lambda _: order)


def neighbours(given: World, seed: int, k: int = 20) -> Run:
    """Judge each model by its answers to the most similar prompts of a table made before the run."""
    before = world(3000, seed)
    known, features = before.quality[:1000], before.features[:1000]
    near = np.array([np.argpartition(((features - one) ** 2).sum(axis=1), k)[:k] for one in given.features])
    order = np.argsort(-(known[near].mean(axis=1) - before.cost[0] / WORTH_USD), axis=1)
    return served(given, lambda call: order[call].tolist())


def selector(given: World, policy: Policy, seed: int, *, warm: bool) -> Run:
    """Gimle's own decisions, which learn from three of ten answers."""
    draw, robin, board, known = np.random.default_rng(seed), RoundRobin(), Board(), Judgements()
    tables = [Table(_models(price), board, References()) for price in (1.0, 5.0)]
    if warm:
        _warm(known, seed)
    who: list[int] = []
    for call in range(len(given.quality)):
        # One call a second.
        now = NOW + call
        table = tables[call >= 2 * len(given.quality) // 3]
        level = LEVELS[given.levels[call]]
        need = Need(tokens=TOKENS, output=OUTPUT, subject=level)
        moment = Moment(
            now=now,
            roll=draw.random(),
            second_roll=draw.random(),
            quality=known.utility(level, table.ids, table.size.value, now),
            complexity=Complexity(level, 0.5, "en", {}),
            explore=_EXPLORED,
        )
        decision = choose.decide(table, need, policy, moment, robin)
        who.append(_asked(given, call, decision.places, table, now))
        if draw.random() < _JUDGED:
            good = float(draw.random() < given.quality[call, who[-1]])
            known.add(level, table.ids[who[-1]], Judgement(good, 1.0), now)
    rows = np.arange(len(who))
    return Run(given.quality[rows, who], given.cost[rows, who], given.seconds[rows, who])


def _asked(given: World, call: int, places: tuple[int, ...], table: Table, now: float) -> int:
    for at in places:
        table.board.begun(table.keys[at])
        if not given.down[call, at]:
            first = float(given.seconds[call, at])
            table.board.answered(table.keys[at], now, TOKENS, (first, first + 4.0), OUTPUT)
            return at
        table.board.failed(table.keys[at], now)
    raise LookupError("All models are down.")


def _warm(known: Judgements, seed: int) -> None:
    before = world(3000, seed)
    draw = np.random.default_rng(seed)
    for number, level in enumerate(LEVELS):
        rows = (before.levels[:1000] == number).nonzero()[0][:60]
        for at, model in enumerate(MODELS):
            for row in rows:
                known.add(level, model[0], Judgement(float(draw.random() < before.quality[row, at]), 1.0), NOW)


def _models(cheapest: float) -> list[Model]:
    return [
        Model(
            provider=name.split("/")[0],
            name=name.split("/")[1],
            dialect="openai",
            context_window=100_000,
            parameters=int(parameters),
            input_nano=int(into * 1e9 * (cheapest if at == 5 else 1.0)),
            output_nano=int(out * 1e9 * (cheapest if at == 5 else 1.0)),
            local=name.startswith("home"),
        )
        for at, (name, parameters, into, out, _, _) in enumerate(MODELS)
    ]


def interval(values: Matrix, seed: int = 0) -> str:
    """A mean, and its 95 % interval from resampled blocks."""
    blocks = np.array([block.mean() for block in np.array_split(values, max(2, len(values) // _BLOCK))])
    draw = np.random.default_rng(seed)
    means = [blocks[draw.integers(0, len(blocks), len(blocks))].mean() for _ in range(1000)]
    low, high = np.percentile(means, [2.5, 97.5])
    return f"{values.mean():+.4f} [{low:+.4f}, {high:+.4f}]"


def worth(calls: int, seeds: int) -> None:
    """Print quality, cost and regret of each way to choose, over all seeds together."""
    runs: dict[str, list[Run]] = {}
    for seed in range(seeds):
        given = world(calls, seed)
        made = {"oracle": oracle(given), "best single": best_single(given), "kNN": neighbours(given, seed)}
        for name in ("efficient", "best-quality"):
            for warm in (False, True):
                run = selector(given, policies.named(name), seed, warm=warm)
                made[f"{name}, {'warm' if warm else 'cold'}"] = run
        for name, run in made.items():
            runs.setdefault(name, []).append(run)
    print(f"{'':20} {'quality':>8} {'USD/1000':>9} {'first s':>8}  {'regret (value)':26} {'quality − best single':26}")
    joined = {name: _joined(each) for name, each in runs.items()}
    ideal, single = joined["oracle"], joined["best single"]
    for name, run in joined.items():
        print(
            f"{name:20} {run.quality.mean():8.4f} {1000 * run.cost.mean():9.3f} {run.seconds.mean():8.3f}  "
            f"{interval(ideal.value - run.value):26} {interval(run.quality - single.quality):26} "
            f"cost {run.cost.mean() / single.cost.mean():.1%} of best single's"
        )


def _joined(runs: list[Run]) -> Run:
    return Run(*(np.concatenate([vars_of(run)[at] for run in runs]) for at in range(3)))


def vars_of(run: Run) -> tuple[Matrix, Matrix, Matrix]:
    """A run's columns."""
    return run.quality, run.cost, run.seconds


def speed(decisions: int) -> None:
    """Print how long a decision over 100 models takes."""
    draw = np.random.default_rng(1)
    board = Board()
    table = Table([_drawn(draw, number) for number in range(100)], board, References())
    for key in table.keys * 20:
        first = float(draw.lognormal(-1, 0.5))
        board.answered(key, NOW, int(draw.integers(50, 40_000)), (first, first + 2.0), 100)
    usual, robin = policies.named(policies.DEFAULT), RoundRobin()
    needs = [Need(capabilities=frozenset({"tools"}), tokens=int(draw.integers(50, 20_000))) for _ in range(512)]
    fresh, kept, cpu = [], [], []
    for number in range(decisions):
        # A thousand calls a second, each of which changes the facts.
        now = NOW + number / 1000
        board.answered(table.keys[number % 100], now, 900, (0.4, 2.0), 100)
        moment = Moment(now=now, roll=draw.random(), second_roll=draw.random(), explore=choose.MOST_EXPLORED)
        started, worked = time.perf_counter(), time.thread_time()
        decision = choose.decide(table, needs[number % 512], usual, moment, robin)
        _ = decision.models
        between = time.perf_counter()
        cpu.append(time.thread_time() - worked)
        _ = choose.decide(table, needs[number % 512], usual, moment, robin, decision.order).models
        kept.append(time.perf_counter() - between)
        fresh.append(between - started)
    for name, times in (("fresh", fresh), ("fresh, CPU only", cpu), ("kept", kept)):
        cuts = statistics.quantiles(times, n=100)
        print(f"{name:16} median {cuts[49] * 1e6:6.1f} µs   p99 {cuts[98] * 1e6:6.1f} µs   ({decisions} decisions)")


def _drawn(draw: np.random.Generator, number: int) -> Model:
    return Model(
        provider=f"p{number % 10}",
        name=f"m{number // 2}",
        dialect="openai",
        context_window=int(draw.choice([8_192, 32_768, 131_072])),
        capabilities=frozenset(draw.choice(["tools", "vision", "json_schema"], 2, replace=False).tolist()),
        parameters=int(math.exp(draw.uniform(math.log(1e9), math.log(4e11)))) if number % 3 else None,
        input_nano=int(draw.integers(10**7, 10**10)) if number % 7 else None,
        output_nano=int(draw.integers(10**7, 10**10)) if number % 7 else None,
    )


def main() -> None:
    """Print all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    speed(given.decisions)
    if given.seeds:
        worth(given.calls, given.seeds)


if __name__ == "__main__":
    main()
