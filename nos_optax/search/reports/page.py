"""The page of one run."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from nos_optax.search.config import SearchConfig
from nos_optax.search.history import Candidate
from nos_optax.search.reports.candidates import candidate_data, candidate_table
from nos_optax.search.reports.markup import (
    code,
    counted,
    duration,
    interval,
    json_text,
    page,
    paragraph,
    prose,
    rate,
    score,
    section,
    table,
    text,
)
from nos_optax.search.reports.mathematics import latex, mathml
from nos_optax.search.reports.picture import Picture, figure
from nos_optax.search.reports.read import Run
from nos_optax.search.reports.seeds import Raced, first_leaders, raced_rules, seed_counts
from nos_optax.search.reports.statistics import families, leaders, t_interval
from nos_optax.search.reports.tasks import least_sentence, tasks_table
from nos_optax.search.results import Result, nothing_learned

FAMILIES, MEMBERS, LEADERS = 12, 6, 5  # shown; the table of all candidates has the rest
STAGES = {  # that not every search has
    "race": "Race: further seeds for the best.",
    "watch": "Watch: the best rule on the watch tasks.",
}
OPTIONAL = ("tasks", "seeds", "watch")  # sections of searches that race, watch or compare


def run_page(run: Run, pictures: Mapping[str, Picture]) -> str:
    """Return the report of a run as HTML."""
    drawn = {name: figure(picture) for name, picture in pictures.items()}
    sections = {
        "summary": ("What came out", _summary(run)),
        "rules": ("The best rules", drawn.get("scores", "") + rules_list(run)),
        "tasks": ("Task by task", drawn.get("tasks", "") + _tasks(run)),
        "seeds": ("Seeds", drawn.get("seeds", "") + _race(run) + drawn.get("race", "")),
        "watch": ("Fitness and watch tasks", drawn.get("watch", "")),
        "rewards": ("Rewards", drawn.get("rewards", "")),
        "choices": ("What the search chose", drawn.get("choices", "")),
        "outcomes": ("Outcomes", drawn.get("outcomes", "") + _outcomes(run)),
        "rates": ("Learning rates", drawn.get("learning_rates", "")),
        "families": ("Families of equivalent rules", _families(run)),
        "time": ("Time", drawn.get("time", "") + _time(run)),
        "configuration": ("Configuration", _configuration(run)),
        "candidates": ("All candidates", candidate_table(run)),
    }
    sections = {n: s for n, s in sections.items() if n not in OPTIONAL or s[1]}
    empty = paragraph("No candidate has been evaluated yet.")
    bodies = [section(name, title, body or empty) for name, (title, body) in sections.items()]
    links = "".join(
        f'<li><a href="#{n}">{text(title)}</a></li>' for n, (title, _) in sections.items()
    )
    navigation = f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
    return page(f"Search on {run.title}", str(run.path), [navigation, *bodies], candidate_data(run))


def _summary(run: Run) -> str:
    """Return the facts that one looks for first, and a sentence on what they mean."""
    of_samples, of_trainings = "", "the others repeat one or were rejected"
    if run.samples:
        of_samples = f"of {run.samples:,} asked for"
    if run.asked_trainings:  # the end is at the trainings, and the candidates are a bound
        of_samples = f"at most {run.samples:,}" if run.samples else ""
        of_trainings = f"of {run.asked_trainings:,} asked for"
    facts = [
        ("candidates", f"{len(run.candidates):,}", of_samples),
        ("trainings", f"{run.trained:,}", of_trainings),
    ]
    for label, results in (("best found", run.found), ("best standard", run.standard)):
        if results:
            facts.append((label, score(results[0].mean), f"{results[0].name}, fresh seeds"))
    if run.seconds:
        facts.append(("time", duration(sum(run.seconds.values())), "over all starts"))
    cells = "".join(
        f"<div><dt>{text(label)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for label, value, note in facts
    )
    return f'{_notice(run)}<dl class="facts">{cells}</dl>{_verdict(run)}'


def _notice(run: Run) -> str:
    """Return what is damaged, and what is missing of a run that came to no end or to nothing."""
    return "".join(f'<p class="notice">{prose(said)}</p>' for said in (*run.damage, *_missing(run)))


def _missing(run: Run) -> list[str]:
    """Return what is missing of a run that has not come to its end, or came to nothing."""
    if said := nothing_learned(run.results, run.facts):
        return [said]
    if run.finished:
        return []
    sentences = [f"This run is not finished: it has {counted(len(run.candidates), 'candidate')}"]
    sentences[0] += f" of {run.samples:,}." if run.samples else "."
    if run.asked_trainings:
        sentences[0] += f" It was to stop after {counted(run.asked_trainings, 'training')}"
        sentences[0] += f", and has {run.trained:,}."
    if run.results:
        sentences.append("Its re-trained rules are of an earlier end and may not be the best now.")
    else:
        sentences.append("Its best rules have not been trained again with fresh seeds.")
    sentences.append("Go on with it by --resume, or make this page again later.")
    return [" ".join(sentences)]


def _verdict(run: Run) -> str:
    """Return how the found rules compare with the optimizers that one would use without them."""
    if run.finals:
        least = least_sentence(run.finals, [result.name for result in run.found])
        return paragraph(run.finals.sentence) + (paragraph(least) if least else "")
    if not (run.found and run.standard):
        return ""
    found, standard = run.found[0], run.standard[0]
    words = [
        f"Trained again with fresh seeds, the best of {counted(len(run.found), 'found rule')}, "
        f"{found.name}, scores {score(found.mean)}; the best standard optimizer, {standard.name}, "
        f"scores {score(standard.mean)}."
    ]
    pairs = list(zip(found.rewards, standard.rewards, strict=False))
    ends = t_interval([x - y for x, y in pairs])
    if ends is not None:
        words.append(f"Seed by seed, the 95 % interval of the difference is {interval(ends)}:")
        if ends[0] <= 0 <= ends[1]:
            words.append("this run does not tell the two apart.")
        else:
            words.append(
                f"{'higher' if ends[0] > 0 else 'lower'} by more than these seeds explain."
            )
            words.append("It does not allow for picking the best of several.")
    return paragraph(*words)


def rules_list(run: Run) -> str:
    """Return the rules that were trained again, typeset, the best mean first.

    Where there are none, the best candidates by their reward, marked as such.
    """
    if run.results:
        return f'<ol class="rules">{"".join(map(_result, run.results))}</ol>'
    best, raced = leaders(run.candidates, LEADERS), raced_rules(run)[:LEADERS]
    if not best:
        return paragraph("No rule has been trained again with fresh seeds.")
    warning = (
        "Not trained again: these are rewards of the search, and the best of many single rewards "
        "flatter. Standard optimizers may be among these rules."
    )
    if raced:
        warning = (
            "Not trained again: these are estimates of the search, the best bound from below "
            "first. Standard optimizers may be among these rules."
        )
    items = "".join(map(_raced, raced) if raced else map(_candidate, best))
    return f'<p class="notice">{prose(warning)}</p><ol class="rules">{items}</ol>'


def results_html(results: Sequence[Result], name: str = "validation score") -> str:
    """Return the rules that were trained again as a table, for a notebook."""
    rows = [
        (
            text(r.name),
            score(r.mean),
            interval(t_interval(r.rewards)),
            mathml(r.rule) if r.tokens else code(r.rule),
        )
        for r in sorted(results, key=lambda r: -r.mean)
    ]
    named = name[0].upper() + name[1:]
    caption = f"{named}, trained again with fresh seeds, and its 95 % interval"
    return table(caption, ("optimizer", "mean", "95 %", "rule"), rows, numbers=(1, 2))


def _result(result: Result) -> str:
    """Return a rule that was trained again, with its scores."""
    ends = t_interval(result.rewards)
    details = [f"Seeds: {', '.join(map(score, result.rewards))}."]
    if result.learning_rates:
        rates = Counter(map(rate, result.learning_rates)).most_common()
        words = [f"{value} ({count} times)" if count > 1 else value for value, count in rates]
        details.append(f"Learning rates: {', '.join(words)}.")
    if result.statuses:
        learned = result.statuses.count("trained")
        details.append(f"Learned with {learned} of {len(result.statuses)} seeds.")
    if result.searched is not None:
        details.append(f"In the search: {score(result.searched)}.")
    kind = "standard" if result.searched is None else "found"
    note = f"95\u00a0%: {interval(ends)}" if ends else "a single seed"
    is_rule = bool(result.tokens)
    return _rule(kind, result.name, result.mean, note, result.rule, details, is_rule)


def _candidate(candidate: Candidate) -> str:
    """Return a rule that was not trained again, with its reward."""
    name, details = (
        f"candidate {candidate.id}",
        [f"Learning rate: {rate(candidate.learning_rate)}."],
    )
    return _rule("found", name, candidate.reward, "in the search", candidate.rule, details)


def _raced(rule: Raced) -> str:
    """Return a rule that was not trained again, with the estimate of its mean reward."""
    candidate, estimate = rule.candidate, rule.estimate
    details = [f"Seeds: {', '.join(map(score, rule.rewards))}."]
    if math.isfinite(rule.low):
        details.append(f"Bound from below: {score(rule.low)}.")
    note = f"estimate, {counted(len(rule.rewards), 'seed')}"
    name = f"candidate {candidate.id}"
    return _rule("found", name, estimate.mean, note, candidate.rule, details)


def _rule(
    kind: str,
    name: str,
    value: float,
    note: str,
    rule: str,
    details: Sequence[str],
    is_rule: bool = True,
) -> str:
    """Return one rule, typeset, with its score; of an optimizer that is no rule, its name alone."""
    shown = f"{_typeset(name, rule) if is_rule else ''}{code(rule)}"
    source = latex(rule) if is_rule else None
    if source:
        shown += (
            f' <button class="copy" type="button" data-text="{text(source)}" hidden>'
            "Copy LaTeX</button>"
        )
    return (
        f'<li class="{kind}"><div><h3>{text(name)}</h3>'
        f'<p class="mean">{score(value)}<small>{text(note)}</small></p></div><div>{shown}'
        f'<p class="details">{prose(" ".join(details))}</p></div></li>'
    )


def _typeset(name: str, rule: str) -> str:
    """Return a rule as mathematics in a box of its own."""
    return (
        f'<div class="mathematics" tabindex="0" role="group" aria-label="{text(name)}">'
        f"{mathml(rule)}</div>"
    )


def _tasks(run: Run) -> str:
    """Return the finalists and rivals task by task, as a table."""
    return tasks_table(run.finals) if run.finals else ""


def _race(run: Run) -> str:
    """Return what the race changed: how many rules got how many seeds, and who led and leads."""
    rules = raced_rules(run)
    if not rules:
        return ""
    counts = seed_counts(rules)
    rows = [(seeds, f"{n:,}", f"{n / len(rules):.1%}") for seeds, n in counts.items()]
    led = first_leaders(rules)
    kept = {id(rule) for rule in led} & {id(rule) for rule in rules[: len(led)]}
    change = sum(rule.estimate.mean - rule.rewards[0] for rule in led) / len(led)
    by = "The race and the choice of the finalists" if run.finals else "The race"
    further = sum(len(rule.rewards) - 1 for rule in rules)
    return table(
        "How many rules were trained with how many seeds in the search",
        ("seeds", "rules", "share"),
        rows,
        (0, 1, 2),
    ) + paragraph(
        f"{by} trained {counted(further, 'further seed')} of {counted(len(rules), 'rule')}. Of "
        f"the {len(led)} that led by their first rewards, {len(kept)} are among the {len(led)} "
        "best now, by the bounds of their estimates from below. Their estimates are "
        f"{score(abs(change))} {'higher' if change > 0 else 'lower'} than their first rewards, on "
        "average."
    )


def _outcomes(run: Run) -> str:
    """Return how many candidates had each status, and why some were rejected."""
    if not run.candidates:
        return ""
    total = len(run.candidates)
    statuses = Counter(c.status for c in run.candidates).most_common()
    rows = [(text(s), f"{n:,}", f"{n / total:.1%}") for s, n in statuses]
    markup = table("Candidates by status", ("status", "candidates", "share"), rows, (1, 2))
    reasons = Counter(c.reason or "none given" for c in run.candidates if c.status == "rejected")
    if reasons:
        rows = [(text(r), f"{n:,}", f"{n / total:.1%}") for r, n in reasons.most_common()]
        header = ("reason", "candidates", "share")
        markup += table("Why candidates were rejected untrained", header, rows, (1, 2))
    return markup


def _families(run: Run) -> str:
    """Return the largest groups of rules with equal updates."""
    groups = families(run.candidates)
    if not run.candidates:
        return ""
    if not groups:
        return paragraph("No two rules that are written differently have equal updates.")
    rows = []
    for group in groups[:FAMILIES]:
        texts = [code(rule) for rule in dict.fromkeys(c.rule for c in group)]
        more = [f"and {len(texts) - MEMBERS:,} more"] if len(texts) > MEMBERS else []
        members = "<br>".join(texts[:MEMBERS] + more)
        rows.append((members, f"{len(texts):,}", f"{len(group):,}", score(group[0].reward)))
    shown = f" The {len(rows)} largest of {len(groups):,}." if len(groups) > len(rows) else ""
    caption = (
        "Rules that are written differently, and whose updates are equal: by algebra, or to 16 "
        f"bits on fixed gradients of all magnitudes.{shown}"
    )
    return table(caption, ("rules", "texts", "candidates", "reward"), rows, (1, 2, 3))


def _time(run: Run) -> str:
    """Return a sentence on the time."""
    if not run.seconds:
        return paragraph("The time of each stage was not recorded in this run.")
    total = sum(run.seconds.values())
    said = [sentence for stage, sentence in STAGES.items() if stage in run.seconds]
    each = f", {total / len(run.candidates):.3g} s a candidate" if run.candidates else ""
    return paragraph(
        f"{duration(total)} in all{each}.",
        "Start: data and devices. Ask and tell: the strategy chooses, and learns. Probe: "
        "look for equal and hopeless rules. Train: the search's children, and at first the wait "
        "for the compiler. Final: the best, again.",
        *said,
    )


def _configuration(run: Run) -> str:
    """Return everything that was recorded of how the run was made."""
    defaults = {f.name: f.default for f in dataclasses.fields(SearchConfig)}
    rows = []
    for name, value in run.config.items():
        default = defaults.get(name, value)
        same = json_text(value) == json_text(default)
        note = "" if same else json_text(default)
        flag = "--" + name.replace("_", "-")
        kind = "" if same else ' class="changed"'
        rows.append((code(flag), f"<span{kind}>{text(json_text(value))}</span>", text(note)))
    facts = [(text(name.replace("_", " ")), text(json_text(v))) for name, v in run.facts.items()]
    return table(
        "Flags of the search; those that differ from this version's defaults are bold",
        ("flag", "value", "default"),
        rows,
    ) + table("Data, devices and versions, as recorded", ("fact", "value"), facts)
