"""What the report says of a study: what is read, drawn and tabled, and how its winner is run."""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from snakemake.cli import parse_config
from studies import make_study, write_file

from swath.errors import DataError
from swath.report import figures, page
from swath.report.tables import Table, page_tables, scored
from swath.study.importance import LEAST_TRIALS
from swath.study.results import Experiment, Objective, Study, Trial, read_experiment

LOSS = (("val/loss", "minimize"),)


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    """As the page draws."""
    with matplotlib.rc_context(figures.STYLE):
        yield


@pytest.fixture(scope="module")
def one(segmentation: Path) -> Experiment:
    """With a study of one objective that has a final."""
    return read_experiment(segmentation)


@pytest.fixture(scope="module")
def two(classification: Path) -> Experiment:
    """With a study of two objectives that has none."""
    return read_experiment(classification)


@pytest.fixture
def study_of(segmentation: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """The experiment with other files of its study, by name."""

    def read(**files: Any) -> Experiment:
        folder = tmp_path / "other"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(segmentation, folder, ignore=shutil.ignore_patterns("study"))
        for name, value in files.items():
            write_file(folder / "study" / f"{name}.json", value)
        return read_experiment(folder)

    return read


def study(results: Experiment) -> Study:
    assert results.study
    return results.study


def tables(results: Experiment) -> list[Table]:
    return page_tables(results, "")["study"]


# ---- what is read ---------------------------------------------------------------------------


def test_the_winner_is_that_of_the_final_and_else_the_best(one: Experiment) -> None:
    of_final = study(one)
    assert of_final.final and of_final.final.winner == 4
    assert of_final.winner is of_final.trials[4]
    assert replace(of_final, final=None).winner is of_final.trials[study(one).best or 0]
    nothing = replace(of_final, final=replace(of_final.final, winner=None))
    assert nothing.winner is None and replace(of_final, best=None, final=None).winner is None


def test_a_trial_stands_where_it_last_had_a_score(one: Experiment) -> None:
    failed = study(one).trials[15]
    assert failed.state == "failed" and not failed.rungs[1].scores
    assert failed.reached is failed.rungs[0] and failed.score() == failed.rungs[0].scores[0]
    assert len(failed.curve) == 4, "its curve goes on to where it failed"
    skipped = study(one).trials[17]
    assert math.isnan(skipped.score()) and skipped.curve == ()
    assert math.isnan(study(one).trials[2].seconds), "null is unknown"


def broken(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    """A study's file in which one thing is not as it should be."""
    stored = make_study(0, (("val/accuracy", "maximize"),))
    change(stored)
    return stored


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: s.pop("objectives"), "objectives: "),
        (lambda s: s.update(objectives=[]), "objectives: "),
        (lambda s: s["objectives"][0].update(direction="up"), "objectives.0.direction: "),
        (lambda s: s["trials"][3].update(state="lost"), "trials.3.state: "),
        (lambda s: s["trials"][3]["rungs"][0].update(scores=["a"]), "trials.3.rungs.0.scores.0: "),
        (lambda s: s["trials"][3]["rungs"][0].update(scores=[1, 2]), "2 scores where there are 1"),
        (lambda s: s.update(best=99), "names trial 99 and does not list it"),
        (lambda s: s.update(front=[98]), "names trial 98 and does not list it"),
        (lambda s: s.update(trials=3), "trials: "),
    ],
)
def test_a_file_that_does_not_hold_what_it_should_is_one_line(
    change: Callable[[dict[str, Any]], Any], told: str, study_of: Callable[..., Experiment]
) -> None:
    with pytest.raises(DataError) as caught:
        study_of(trials=broken(change))
    assert told in str(caught.value) and "trials.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "final",
    [
        [],
        {"candidates": [], "winner": 3},
        {"candidates": [{"number": 99, "rank": 0, "mean": [1], "sd": [0], "runs": []}],
         "winner": None},
        {"candidates": [{"number": 3, "rank": 0, "mean": [1, 2], "sd": [0], "runs": []}],
         "winner": 3},
    ],
)  # fmt: skip
def test_a_final_that_is_not_of_its_study_is_one_line(
    final: Any, study_of: Callable[..., Experiment]
) -> None:
    with pytest.raises(DataError, match=r"final\.json"):
        study_of(trials=broken(lambda _: None), final=final)


# ---- what is drawn --------------------------------------------------------------------------


def test_a_line_goes_through_every_epoch_and_has_a_dot_at_each_rung(one: Experiment) -> None:
    axes = figures._learning(study(one)).axes[0]
    winner = [line for line in axes.lines if line.get_color() == figures.ACCENT]
    curve, dots = winner
    assert list(curve.get_xdata()) == list(range(1, 19)) and list(dots.get_xdata()) == [2, 6, 18]
    assert list(curve.get_ydata()) == [100 * v for v in study(one).trials[4].curve]
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert len(crosses) == 2


def test_without_curves_a_line_joins_the_rungs(one: Experiment) -> None:
    bare = [
        replace(trial, rungs=tuple(replace(rung, curve=()) for rung in trial.rungs))
        for trial in study(one).trials
    ]
    axes = figures._learning(replace(study(one), trials=tuple(bare))).axes[0]
    assert any(list(line.get_xdata()) == [2, 6, 18] for line in axes.lines)


def test_a_score_that_is_minimized_has_its_better_end_above(
    study_of: Callable[..., Experiment],
) -> None:
    results = study_of(trials=make_study(0, LOSS))
    best, worst = figures._best_and_worst(study(results))
    assert best == study(results).winner.score() < worst  # type: ignore[union-attr]
    axis = figures._Axis.of_score(study(results), study(results).scored, 0)
    at = study(results).scored.index(study(results).winner)  # type: ignore[arg-type]
    assert axis.heights[at] == 1.0 and (1.0, f"{best:.3g}") in axis.ticks
    assert axis.ticks[0][0] == 0.0 and axis.ticks[0][1] == f"{worst:.3g}"


def test_a_parameter_that_a_trial_does_not_have_is_below_its_axis(one: Experiment) -> None:
    trials = study(one).trials
    axis = figures._Axis.of_parameter(trials, "model.drop")
    assert axis.lacking
    for trial, height in zip(trials, axis.heights, strict=True):
        assert (height == figures.NOT_SET) == ("model.drop" not in trial.params)
    words = figures._Axis.of_parameter(trials, "model.widths")
    assert [word for _, word in words.ticks] == ["[16, 32]", "[8, 16]"] and not words.lacking
    rate = figures._Axis.of_parameter(trials, "optim.lr")
    ranked = sorted(zip((trial.params["optim.lr"] for trial in trials), rate.heights, strict=True))
    assert ranked[0][1] == 0 and ranked[-1][1] == pytest.approx(1)
    halves = {lr: math.log(lr / ranked[0][0]) / math.log(ranked[-1][0] / ranked[0][0]) for lr, _
              in ranked}  # fmt: skip
    assert all(height == pytest.approx(halves[lr]) for lr, height in ranked)


def test_the_front_joins_what_no_other_beats(two: Experiment) -> None:
    (figure,) = figures.objectives(two)
    (line,) = figure.axes[0].lines
    front = [study(two).trials[number] for number in study(two).front]
    assert sorted(line.get_xdata()) == sorted(trial.score(1) for trial in front)
    assert len(front) >= 2


def test_figures_that_have_nothing_to_say_are_left_out(
    one: Experiment, study_of: Callable[..., Experiment]
) -> None:
    assert figures.objectives(one) == []
    assert figures.parameter_importance(one)
    few = replace(study(one), trials=study(one).trials[: LEAST_TRIALS - 2])
    few = replace(few, best=4, front=(4,))
    assert figures.parameter_importance(replace(one, study=few)) == []
    untimed = [
        replace(trial, rungs=tuple(replace(rung, seconds=math.nan) for rung in trial.rungs))
        for trial in few.trials
    ]
    assert len(figures.trials(replace(one, study=replace(few, trials=tuple(untimed))))) == 1
    alike = [replace(trial, params={"optim.lr": 0.1}) for trial in few.trials]
    same = replace(one, study=replace(few, trials=tuple(alike)))
    assert figures.trials_side_by_side(same) == [] == figures.parameters(same)


def test_a_study_of_one_trial_is_drawn(study_of: Callable[..., Experiment]) -> None:
    stored = make_study(0, LOSS)
    stored |= {"trials": stored["trials"][4:5], "best": 4, "front": [4]}
    results = study_of(trials=stored)
    assert [figure.name for figure in page.drawn_figures(results)["study"]] == ["trials"]


# ---- tables ---------------------------------------------------------------------------------


def test_trials_stand_with_their_score_at_each_rung(one: Experiment) -> None:
    table = tables(one)[-1]
    row = dict(zip(table.head, table.rows[0], strict=True))
    winner = study(one).trials[4]
    assert row["Trial"] == "4" and table.strong == [0]
    assert [row[f"{rung.epochs} epochs"] for rung in winner.rungs] == [
        f"{100 * rung.scores[0]:.1f}" for rung in winner.rungs
    ]
    by_number = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    assert by_number["15"]["State"] == "failed: the loss was not finite in epoch 3, batch 2"
    assert by_number["17"]["State"] == "skipped: the study's time was over"
    assert by_number["2"]["Time"] == "–" and by_number["17"]["2 epochs"] == "–"
    for trial in study(one).trials:
        told = by_number[str(trial.number)]["model.drop"]
        assert (told == "") == ("model.drop" not in trial.params)
    assert len(table.rows) == 18


def test_of_several_objectives_the_others_stand_where_each_ended(two: Experiment) -> None:
    (table,) = tables(two)
    front = {str(number) for number in study(two).front}
    assert {table.rows[at][0] for at in table.strong} == front
    by_number = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    for trial in study(two).scored:
        assert by_number[str(trial.number)]["parameters"] == scored(
            study(two).objectives[1], trial.score(1)
        )
    assert "no other beats in all objectives" in table.caption


def test_of_very_many_trials_the_best_are_listed(one: Experiment) -> None:
    many = [replace(t, number=100 * k + t.number) for k in range(4) for t in study(one).trials]
    table = tables(replace(one, study=replace(study(one), trials=tuple(many), final=None)))[-1]
    assert len(table.rows) == 50 and table.caption.startswith("Trials, the best 50 of 72")


def test_the_final_says_mean_deviation_and_each_run(one: Experiment) -> None:
    final = tables(one)[1]
    assert final.head == ("Trial", "val/accuracy, %", "fold 0, seed 1", "fold 0, seed 2")
    assert list(final.rows) == [
        ("4 (won)", "71.0 ± 1.2", "72.0", "70.0"),
        ("12", "69.0 ± 1.2", "70.0", "failed: no memory was left"),
    ]


def test_the_test_part_is_told_once_and_stamped_where_its_split_leaks(one: Experiment) -> None:
    judged = tables(one)[0]
    assert judged.caption == "The test part of the split blocks, touched once, by the winner"
    assert judged.rows[0] == ("fold 0, seed 1", "80.1", "77.1–82.1")
    assert judged.rows[-1][:2] == ("mean ± standard deviation of 2", "79.65 ± 0.64")
    assert not judged.leaks
    final = study(one).final
    assert final and final.test
    leaky = replace(final, test=replace(final.test, split="random"))
    stamped = tables(replace(one, study=replace(study(one), final=leaky)))[0]
    assert stamped.leaks == ("split random: 312 pairs overlap",)
    none = replace(one, study=replace(study(one), final=replace(final, test=None)))
    assert len(tables(none)) == 2


@pytest.mark.parametrize(
    ("name", "value", "spread", "text"),
    [
        ("val/f1", 0.8125, math.nan, "81.2"),
        ("val/f1", 0.8125, 0.0151, "81.2 ± 1.5"),
        ("val/loss", 0.5, 0.1, "0.500 ± 0.100"),
        ("parameters", 12000, 0, "12,000 ± 0"),
        ("seconds", 3.25, math.nan, "3.250"),
        ("val/f1", math.nan, math.nan, "–"),
    ],
)
def test_a_score_is_written_in_its_unit(name: str, value: float, spread: float, text: str) -> None:
    assert scored(Objective(name, "maximize"), value, spread) == text


# ---- how the winner is run ------------------------------------------------------------------

PARAMS = {
    "optim.lr": 0.00001,
    "optim.momentum": 1e-7,
    "optim.min_lr": -3.5,
    "model.width": 16,
    "model.widths": [8, 16],
    "model.nested": [[1, 2], ["a b", None]],
    "model.name": "resnet",
    "model.squeeze": True,
    "optim.schedule": None,
    "model.as_word": "true",
    "model.like_a_number": "1e3",
    "model.empty": "",
    "model.blank": "two words",
    "model.path": "a/b-c.d",
    "model.quotes": 'it\'s "so"',
    "model.special": "a,b=c:d(e)[f]{g} \\h",
    "model.shell": "`ls` $HOME",
    "model.called": "wow!",
}


@pytest.mark.parametrize("names", [[name] for name in PARAMS] + [[*PARAMS], [*PARAMS][:8]])
def test_the_command_gives_hydra_the_winner_s_values(names: list[str], one: Experiment) -> None:
    params = {name: PARAMS[name] for name in names}
    winner = Trial(0, params, (), "complete")
    made = replace(study(one), trials=(winner,), best=0, front=(0,), final=None)
    words = shlex.split(page._command(replace(one, study=made)))
    assert words[:3] == ["snakemake", "--config", f"experiment={one.name}"] and len(words) == 4
    given = parse_config(words[2:])["set"]
    found = OverridesParser.create().parse_overrides(shlex.split(given))
    values = {each.key_or_group: each.value() for each in found}
    assert values == {**params, "sweep": "none"}


def test_the_command_is_plain_where_it_can_be(one: Experiment) -> None:
    params = study(one).trials[4].params
    assert page._command(one) == (
        f'snakemake --config experiment=fields-unet set="optim.lr={params["optim.lr"]} '
        'model.name=unet model.widths=[8,16] optim.schedule=cosine trainer.epochs=18 sweep=none"'
    )


def test_the_winner_s_file_stands_on_the_page_with_its_name(
    segmentation: Path, classification: Path, written: Callable[[Path], Path]
) -> None:
    text = written(segmentation).read_text(encoding="utf-8")
    assert "conf/experiment/fields-unet_winner.yaml" in text
    assert (segmentation / "study" / "winner.yaml").read_text() in text
    assert "_winner" not in written(classification).read_text(encoding="utf-8")


def test_a_study_in_which_all_failed_says_so_with_the_reasons(
    study_of: Callable[..., Experiment],
) -> None:
    stored = make_study(0, (("val/accuracy", "maximize"),))
    for trial in stored["trials"]:
        trial |= {"state": "failed", "reason": "no memory was left"}
        trial["rungs"] = [r | {"scores": None, "curve": []} for r in trial["rungs"][:1]]
    stored["trials"][3]["reason"] = "the <loss> was not finite"
    stored |= {"best": None, "front": []}
    results = study_of(trials=stored)
    text = page.page(results, code="")
    assert "No trial has a score, so nothing won." in text
    assert "Trial 3: the &lt;loss&gt; was not finite" in text
    assert "Trials 0, 1, 2, 4, 5," in text and "Run the winner" not in text
    assert "study" not in page.drawn_figures(results)
    assert len(tables(results)) == 1 and tables(results)[0].strong == []


def test_a_sentence_says_how_the_trials_ended_and_what_cannot_be_told(one: Experiment) -> None:
    (told,) = page._notes(one, "study")
    assert (
        told == "18 trials by the sampler tpe, static: 2 complete, 13 stopped, 2 failed, 1 skipped."
    )
    few = replace(study(one), trials=study(one).trials[:8])
    assert page._notes(replace(one, study=few), "study")[1] == (
        f"Which parameters matter is not shown: that takes {LEAST_TRIALS} trials with a score on "
        "the first rung."
    )
    final = study(one).final
    assert final
    lost = replace(study(one), final=replace(final, winner=None))
    told = page._notes(replace(one, study=lost), "study")[1]
    assert told == "Every run of the final failed, so nothing won."
    assert page._command(replace(one, study=lost)) == ""
