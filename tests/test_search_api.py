"""The search from Python: any task and space, the settings of the command line, TensorBoard."""

import dataclasses
import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from nos_optax.grammar import SearchSpace
from nos_optax.population import Task, load_digits
from nos_optax.search import LocalEngine, SearchConfig, command, read_candidates, search
from nos_optax.search.api import in_python
from nos_optax.search.results import Result, nothing_learned
from nos_optax.search.run_folder import default_path, open_history

SPACE = SearchSpace(1, operands=("g", "m", "adam"), unary=("x", "sign"), binary=("*", "left"))
SETTINGS = {
    "protocol": "paper",
    "samples": 12,
    "batch_size": 4,
    "epochs": 1,
    "minibatch_size": 20,
    "finalists": 1,
    "final_seeds": 2,
    "accelerator": "cpu",
}


def line(name="line", examples=200):
    """A task that every working rule solves: the sign of a line."""
    x = np.linspace(-1, 1, examples, dtype=np.float32)
    y = np.sign(x + 0.3)
    return Task(
        name,
        init=lambda key: (jnp.zeros(2), ()),
        loss=lambda p, state, b, key: (jnp.mean((p[0] * b[0] + p[1] - b[1]) ** 2), state),
        metric=lambda p, state, b: jnp.sign(p[0] * b[0] + p[1]) == b[1],
        train=(x, y),
        validation=(x, y),
        chance=0.5,
        baseline=0.65,
        baseline_error=0.03,
        perfect=1.0,
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("api") / "run"
    return search(line(), SPACE, out=out, tensorboard=True, strategy="random", **SETTINGS)


@pytest.mark.slow
def test_a_task_of_ones_own_is_searched_within_the_space(found):
    assert len(found.candidates) == 12
    assert all(c.tokens.split()[0] in SPACE.operands for c in found.candidates)
    assert max(c.reward for c in found.candidates) > 0.9
    config = json.loads((found.folder / "config.json").read_text())
    assert config["dataset"] == "line" and config["config"]["operands"] == list(SPACE.operands)
    assert {r.name for r in found.results} >= {"found 1", "Adam"}


@pytest.mark.slow
def test_the_result_holds_what_the_report_shows(found):
    assert found.best.name == "found 1" and len(found.best.rewards) == 2
    assert found.run.candidates == tuple(found.candidates)
    assert found.run.config["tensorboard"] is True and found.run.seconds["train"] > 0
    assert "<math" in found._repr_html_() and "Adam" in found._repr_html_()
    assert "12 candidates" in repr(found)
    assert "<html" in found.report.read_text()
    with pytest.raises(LookupError, match="finalists is 0"):
        _ = dataclasses.replace(found, results=[]).best


@pytest.mark.slow
def test_the_stages_are_timed(found):
    with open_history(found.folder) as history:
        seconds = history.seconds()
    assert set(seconds) == {"start", "ask", "probe", "train", "tell", "checkpoint", "final"}
    assert all(s > 0 for s in seconds.values())
    assert sum(seconds.values()) <= found.seconds


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"final_seeds": "a"}, "final_seeds is 'a'; expected int"),
        ({"strategy": "random", "start": "catalogue"}, "start catalogue is for strategy evolution"),
        ({"lanes": True}, "lanes is True; expected int"),
    ],
)
def test_errors_are_in_the_words_of_python(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        search("digits-mlp", **settings)


def test_commands_in_messages_keep_their_flags():
    said = (
        "no Ray: start it with `ray start --head` and give --ray-address, or run\n  python -m a --b"
    )
    assert in_python(said) == said.replace("--ray-address", "ray_address")
    assert in_python("/tmp/a--b is held by --out /tmp/--c") == "/tmp/a--b is held by out /tmp/--c"


@pytest.mark.slow
def test_it_goes_on_with_the_same_task_only(found):
    settings = SETTINGS | {"samples": 16, "strategy": "random", "resume": True}
    with pytest.raises(ValueError, match="begun with dataset line, now it is other"):
        search(line("other"), SPACE, out=found.folder, **settings)
    with pytest.raises(ValueError, match="begun with train_examples 200, now it is 100"):
        search(line(examples=100), SPACE, out=found.folder, **settings)
    with pytest.raises(ValueError, match=r"^(?!.*--).*operands was"):
        search(
            line(), dataclasses.replace(SPACE, operands=("g", "m")), out=found.folder, **settings
        )
    longer = search(line(), SPACE, out=found.folder, **settings)
    assert longer.candidates[:12] == found.candidates
    assert len(longer.candidates) == 16 == len(read_candidates(found.folder))


@pytest.mark.slow
def test_what_is_not_given_on_resuming_is_as_it_was(found):
    again = search(line(), out=str(found.folder), resume=True)
    assert again.candidates == read_candidates(found.folder)
    assert again.run.config["operands"] == list(SPACE.operands)
    assert len(again.best.rewards) == SETTINGS["final_seeds"]


@pytest.mark.slow
def test_a_resumed_search_writes_the_points_that_are_missing(tmp_path):
    settings = SETTINGS | {"strategy": "random", "finalists": 0, "tensorboard": True}
    search(line, SPACE, out=tmp_path / "run", **settings | {"samples": 4})
    search(line(), out=tmp_path / "run", resume=True, samples=12)
    points = means(tmp_path / "run")
    assert [step for step, _ in points] == [4, 8, 12]
    rewards = [c.reward for c in read_candidates(tmp_path / "run")]
    np.testing.assert_allclose(
        [mean for _, mean in points], np.reshape(rewards, (3, 4)).mean(axis=1), rtol=1e-5
    )


@pytest.mark.slow
def test_other_data_of_the_same_name_is_refused(found):
    other = dataclasses.replace(line(), train=tuple(-x for x in line().train))
    with pytest.raises(ValueError, match="begun with data_checksum"):
        search(other, out=found.folder, resume=True)


@pytest.mark.slow
def test_scores_above_the_perfect_one_are_an_error(tmp_path):
    wrong = dataclasses.replace(line(), metric=lambda p, state, b: 5 + jnp.abs(p[0] * b[0]))
    with pytest.raises(ValueError, match="perfect is 1; the metric is higher for better"):
        search(wrong, SPACE, out=tmp_path / "run", **SETTINGS)


@pytest.mark.slow
def test_no_reward_is_below_chance(tmp_path):
    bottomless = dataclasses.replace(
        line(),
        metric=lambda p, state, b: jnp.sign(p[0] * b[0] + p[1]) * b[1] * 1e6 - 1e6,
        chance=-1.0,
        baseline=-1e6,
        baseline_error=0.0,
        perfect=0.0,
    )
    settings = SETTINGS | {"finalists": 0, "strategy": "random", "reject": False}
    result = search(bottomless, SPACE, out=tmp_path / "run", **settings)
    rewards = [c.reward for c in result.candidates]
    assert min(rewards) == -1.0
    trained = [c for c in result.candidates if c.status == "trained" and c.reward == -1.0]
    assert trained, "one was finite, and worse than chance"


def test_a_report_that_fails_loses_nothing(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError("the disk is full")

    monkeypatch.setattr("nos_optax.search.reports.write_report", fail)
    settings = SETTINGS | {"finalists": 0, "samples": 4, "strategy": "random"}
    with pytest.warns(UserWarning, match="no report .the disk is full.; try python -m"):
        result = search(line(), SPACE, out=tmp_path / "run", **settings)
    assert len(result.candidates) == 4


@pytest.mark.slow
def test_idle_cores_are_mentioned(tmp_path, monkeypatch, capsys):
    settings = SETTINGS | {"finalists": 0, "samples": 4, "strategy": "random"}
    for cores, said in ((2, False), (64, True)):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid, n=cores: set(range(n)))
        search(line(), SPACE, out=tmp_path / str(cores), **settings)
        assert ("select_devices" in capsys.readouterr().out) == said


def test_numbers_of_numpy_and_lists_are_taken():
    config = SearchConfig(samples=np.int64(64), watch=["table"], tolerance=np.float32(0))
    assert type(config.samples) is int and config.watch == ("table",)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["loss", "chance", "init"])
def test_another_model_is_refused(found, change):
    task = line()
    changed = {
        "loss": lambda p, s, b, k: (2 * task.loss(p, s, b, k)[0], s),
        "chance": 0.4,
        "init": lambda key: (jnp.ones(2), ()),
    }
    other = dataclasses.replace(task, **{change: changed[change]})
    with pytest.raises(ValueError, match=r"was begun with (another (loss|init) of|chance)"):
        search(other, out=found.folder, resume=True)


@pytest.mark.slow
def test_on_resuming_the_task_must_be_given_again(found):
    with pytest.raises(ValueError, match="was given from Python: give it again"):
        search(out=found.folder, resume=True)


@pytest.mark.slow
def test_a_named_task_need_not_be_given_again(tmp_path):
    settings = SETTINGS | {"samples": 4, "finalists": 0, "strategy": "random"}
    short = {"train_examples": 100, "sweep_examples": 100, "minibatch_size": 50}
    search("digits", SPACE, out=tmp_path / "run", **(settings | short))
    assert len(search(out=tmp_path / "run", resume=True, samples=8).candidates) == 8


class Twice:
    """A strategy of the user's own."""

    def __init__(self, space, key):
        self.rows = np.asarray(space.sample(key, 4))

    def ask(self, count):
        return self.rows[:count]

    def tell(self, tokens, rewards):
        del tokens, rewards


def test_a_strategy_of_ones_own_may_be_a_class(tmp_path):
    settings = SETTINGS | {"samples": 8, "batch_size": 4, "finalists": 0, "strategy": Twice}
    result = search(line(), SPACE, out=tmp_path / "run", **settings)
    tokens = [c.tokens for c in result.candidates]
    assert tokens[:4] == tokens[4:]
    again = search(line(), out=tmp_path / "run", resume=True, samples=12, strategy=Twice)
    assert len(again.candidates) == 12
    with pytest.raises(
        ValueError, match="a strategy that is given from Python must be given again"
    ):
        search(line(), out=tmp_path / "run", resume=True, samples=16)


def error(p, state, b):
    return (p[0] * b[0] + p[1] - b[1]) ** 2


def test_a_metric_of_the_wrong_sign_is_noticed_at_once(tmp_path):
    wrong = dataclasses.replace(line(), metric=error, perfect=math.inf)
    with pytest.warns(UserWarning, match="lowers the metric too .* is 1.00.* negate an error"):
        LocalEngine(SearchConfig(**SETTINGS), 1, [wrong]).close()
    for metric in (lambda *args: -error(*args), line().metric):
        LocalEngine(
            SearchConfig(**SETTINGS), 1, [dataclasses.replace(wrong, metric=metric)]
        ).close()


def test_a_chance_too_high_is_noticed(tmp_path, capsys):
    """Else all rewards are equal, and nobody knows why."""
    task = dataclasses.replace(
        line(), metric=lambda *args: -error(*args), chance=-0.01, baseline=-100.0, perfect=1.0
    )
    settings = SETTINGS | {"samples": 4, "strategy": "random"}
    result = search(task, SPACE, out=tmp_path / "run", **settings)
    said = " ".join(capsys.readouterr().out.split())
    assert "no standard optimizer comes to more than the task's chance, -0.01" in said
    assert all(reward >= -0.01 for r in result.results for reward in r.rewards)


def result(mean, status="trained", searched=None):
    return Result("SGD", "g", "", (mean,) * 3, (0.1,) * 3, (status,) * 3, searched)


@pytest.mark.parametrize(
    ("results", "facts", "words"),
    [
        ([result(0.3)], {"untrained": 0.1, "chance": 0.0}, None),
        ([result(0.3)], {"untrained": 0.4, "chance": 0.0}, "0.4, the score of untrained weights"),
        ([result(0.666667)], {"chance": 2 / 3}, "the task's chance, 0.666667"),
        ([result(-0.333333)], {"chance": -1 / 3}, "the task's chance"),
        ([result(0.1, "dead"), result(0.5, searched=0.5)], {"chance": 0.1}, None),
        ([result(0.1, "dead")], {"chance": 0.1, "threshold": 0.2}, "none had a score above 0.2"),
        ([], {}, None),
    ],
)
def test_what_is_said_if_nothing_learned(results, facts, words):
    said = nothing_learned(results, facts)
    assert (said is None) == (words is None) and (words or "") in (said or "")


def test_a_metric_that_is_not_finite_is_an_error(tmp_path):
    task = dataclasses.replace(line(), metric=lambda p, s, b: p[0] + jnp.log(b[1]))
    with pytest.raises(ValueError, match="the metric of untrained weights is nan; it must be"):
        search(task, SPACE, out=tmp_path / "run", **SETTINGS)


def test_trainings_take_as_many_samples_as_they_need():
    assert SearchConfig().most_samples == 896
    assert SearchConfig(protocol="paper").most_samples == 512
    assert SearchConfig(trainings=2000).most_samples > 10**6
    assert SearchConfig(trainings=2000, samples=600).most_samples == 600


@pytest.mark.parametrize(
    ("samples", "strategy", "blind"), [(4, "ppo", True), (5, "ppo", False), (4, "random", False)]
)
def test_a_strategy_that_is_never_taught_is_mentioned(samples, strategy, blind):
    said = SearchConfig(samples=samples, batch_size=4, strategy=strategy).blind
    assert (said is not None) == blind
    if said:
        assert "--strategy ppo learns after each population of --batch-size 4" in said


def test_folders_of_the_same_second_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    for expected in ("now", "now-2", "now-3"):
        made = default_path()
        assert made.name == expected and made.is_dir()


@pytest.mark.slow
def test_a_notebook_shows_progress_and_the_best_rules(tmp_path):
    import nbformat
    from nbclient import NotebookClient

    code = """
from nos_optax.search import search
result = search(protocol="paper", samples=8, batch_size=4, iterations=1, train_examples=200,
                epochs=1, finalists=1, final_seeds=2, strategy="random", accelerator="cpu")
result
"""
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    NotebookClient(book, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = book.cells[0].outputs
    assert any("Output()" in str(output) for output in outputs), "the bar is a widget"
    shown = [o.data["text/html"] for o in outputs if "text/html" in o.get("data", {})]
    assert any("<math" in html and "Adam" in html for html in shown)


@pytest.mark.slow
def test_the_command_line_says_that_the_task_is_elsewhere(found, monkeypatch):
    monkeypatch.setattr("sys.argv", ["search", "--resume", "--out", str(found.folder)])
    monkeypatch.setattr(command, "enable_compilation_cache", lambda: None)
    with pytest.raises(SystemExit, match="given from Python"):
        command.main()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sample": 3}, "no setting 'sample'; did you mean .*samples"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"engine": "ray"}, "give 'module:name'"),
        ({"iterations": 2}, "iterations: given twice"),
        ({"train_examples": 10}, "give a task with fewer examples"),
        ({"resume": True}, "resume needs out"),
        ({"dataset": "cifar10"}, "did you mean task"),
        ({"engine": "remote"}, r"engine is 'remote'; expected Literal\['local', 'ray'\]"),
        ({"preset": "papr"}, "preset is 'papr'"),
        ({"samples": 64.5}, "samples is 64.5; expected int"),
        ({"samples": "64"}, "samples is '64'; expected int"),
        ({"reuse": "no"}, "reuse is 'no'; expected bool"),
        ({"watch": 1}, "watch is 1; expected tuple"),
        ({"seed": None}, "seed is None; expected int"),
        ({"strategy": 3}, "strategy is 3; expected str"),
        ({"strategy": "given"}, "must be given again"),
    ],
)
def test_wrong_settings(settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        search(line(), SPACE, out=tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "space", "message"),
    [
        (3, None, "a task is a Task, a Workload, a Dataset or a name, got 3"),
        (line, ("g", "m"), "must be a nos_optax.grammar.SearchSpace"),
        ("mnist", None, "digits, cifar10"),
    ],
)
def test_wrong_tasks_and_spaces(task, space, message):
    with pytest.raises(ValueError, match=message):
        search(task, space)


@pytest.mark.slow
def test_images_are_trained_by_the_papers_child(tmp_path):
    digits = load_digits(train_examples=200)
    settings = SETTINGS | {"finalists": 0, "samples": 2, "batch_size": 2}
    result = search(digits, SPACE, out=tmp_path / "run", **settings)
    assert len(result.candidates) == 2


@pytest.mark.slow
def test_events_hold_a_point_for_each_population(found):
    rewards = [c.reward for c in read_candidates(found.folder)][:12]
    points = means(found.folder)[:3]
    assert [step for step, _ in points] == [4, 8, 12]
    np.testing.assert_allclose(
        [mean for _, mean in points], np.reshape(rewards, (3, 4)).mean(axis=1), rtol=1e-5
    )


def means(folder):
    """Return the steps and values of the mean reward, of all starts."""
    from tensorboardX.proto.event_pb2 import Event

    return [
        (event.step, value.simple_value)
        for file in sorted((folder / "tensorboard").iterdir())
        for event in events(file.read_bytes(), Event)
        for value in event.summary.value
        if value.tag == "reward/mean"
    ]


def events(content, kind):
    """Yield the events of a file: length, its checksum, message, its checksum."""
    while content:
        length = int.from_bytes(content[:8], "little")
        event = kind()
        event.ParseFromString(content[12 : 12 + length])
        yield event
        content = content[16 + length :]


@pytest.mark.slow
def test_every_strategy_keeps_to_a_narrow_space(tmp_path):
    from fake_engine import FakeEngine

    from nos_optax.search import run_search

    for strategy in ("ppo", "reinforce", "evolution", "random"):
        config = SearchConfig(
            protocol="paper",
            samples=160, iterations=1, strategy=strategy, out=tmp_path / strategy, finalists=0,
            operands=SPACE.operands, unary=SPACE.unary, binary=SPACE.binary,
        )  # fmt: skip
        candidates = run_search(config, engine=FakeEngine()).candidates
        for c in candidates:
            a, b, u1, u2, f = c.tokens.split()
            assert {a, b} <= set(SPACE.operands) and {u1, u2} <= set(SPACE.unary)
            assert f in SPACE.binary
