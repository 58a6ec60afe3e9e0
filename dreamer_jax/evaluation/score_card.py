"""A judgement as files: ``report.json``, one page that needs nothing else, and its pictures."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_jax.analysis import web_page
from dreamer_jax.analysis.plot import open_panels, save_picture
from dreamer_jax.files import replace_file
from dreamer_jax.terminal import Answer, table

Rows = list[tuple[str, ...]]


def write(report: dict[str, Any], folder: Path) -> list[Path]:
    """Everything into ``folder``; files that are there are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw(report, folder)
    page = folder / "index.html"
    replace_file(page, as_page(report, pictures).encode())
    facts = folder / "report.json"
    replace_file(facts, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    return [facts, page, *pictures]


def draw(report: dict[str, Any], folder: Path) -> list[Path]:
    """Errors ahead, what states know, latents, and returns, as far as they are there."""
    found = []
    numbers = [
        (context, section["numbers"])
        for context, section in report["forecast"].items()
        if isinstance(section, dict) and "numbers" in section
    ]
    if numbers:
        figure, axes = open_panels(len(numbers))
        for ax, (context, one) in zip(axes, numbers, strict=True):
            for name, values in one["every_horizon"].items():
                style = {"linewidth": 2.5, "color": "black"} if name == "nmse" else {"linewidth": 1.3}
                label = "model" if name == "nmse" else name.removeprefix("nmse_")
                ax.plot(np.arange(1, len(values) + 1), values, label=label, **style)
            _finish(ax, f"{context} records seen", "records ahead", "error / variance")
            ax.set_ylim(0, min(3.0, ax.get_ylim()[1]))
        found.append(save_picture(figure, folder / "forecast.png"))
    if report.get("fidelity") and "void" not in report["fidelity"]:
        figure, axes = open_panels(len(report["fidelity"]))
        for ax, (target, features) in zip(axes, report["fidelity"].items(), strict=True):
            names = list(features)
            for shift, (label, key) in enumerate((("model", "r2"), ("untrained", "untrained"))):
                values = [max(-0.2, features[name]["ridge"].get(key) or 0) for name in names]
                ax.bar(np.arange(len(names)) + 0.4 * shift - 0.2, values, 0.4, label=label)
            ceiling = features["state"]["ridge"].get("ceiling")
            if ceiling is not None:
                ax.axhline(ceiling, color="grey", linestyle="--", label="the observation itself")
            ax.set_xticks(np.arange(len(names)), names)
            ax.set_ylim(-0.2, 1.05)
            _finish(ax, target, "", "R2 of a linear probe")
        found.append(save_picture(figure, folder / "fidelity.png"))
    pairs: list[tuple[str, str, str, list[float], list[float]]] = [
        (f"{horizon} records", "return", "imagined", one["realised"], one["imagined"])
        for horizon, one in _sections(report, "returns")
    ]
    if one := _there(report, "value"):
        pairs.append(("critic", "sum of discounted rewards", "promised", one["realised"], one["promised"]))
    if one := _there(report, "ranking"):
        real, imagined = ([policy[side] for policy in one["policies"].values()] for side in ("realised", "imagined"))
        pairs.append((f"{len(real)} policies", "mean return", "imagined", real, imagined))
    if pairs:
        figure, axes = open_panels(len(pairs))
        for ax, (title, what, guess, realised, promised) in zip(axes, pairs, strict=True):
            ax.scatter(realised, promised, s=12)
            ends = [min(*realised, *promised), max(*realised, *promised)]
            ax.plot(ends, ends, color="grey", linewidth=1)
            _finish(ax, title, f"realised {what}", f"{guess} {what}", legend=False)
        found.append(save_picture(figure, folder / "returns.png"))
    return found


def _finish(ax: Any, title: str, x: str, y: str, legend: bool = True) -> None:
    ax.set_title(title, fontsize=12, fontweight="bold")
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.grid(alpha=0.25)
    if legend:
        ax.legend(fontsize=8)


def headline(report: dict[str, Any]) -> Rows:
    """The numbers that a person wants first; a dash stands for what was not measured or is void."""
    rows: Rows = []
    for context, one in _sections(report, "forecast"):
        if "numbers" in one:
            numbers = one["numbers"]
            rows.append((f"records ahead with skill, {context} seen", str(numbers["furthest"])))
            for h, skill, low, high in zip(
                *(numbers[key] for key in ("horizons", "skill", "skill_low", "skill_high")), strict=True
            ):
                if h in (5, 15, 50):
                    rows.append((f"skill {h} ahead, {context} seen", f"{_n(skill)} ({_n(low)} to {_n(high)})"))
        for name, image in one.get("images", {}).items():
            at = image["horizons"].index(15) if 15 in image["horizons"] else -1
            rows.append((f"SSIM of {name} 15 ahead, {context} seen", _n(image["ssim"][at])))
    for target, features in _sections(report, "fidelity"):
        one = features["state"]["ridge"]
        rows.append((f"R2 of {target}, linear", f"{_n(one['r2'])} (untrained {_n(one.get('untrained'))})"))
    if "counterfactual" in report:
        one = report["counterfactual"]
        for i, h in enumerate(one.get("horizons", [])):
            rows.append((f"effect of actions {h} ahead, R2", _n(one["r2"][i])))
    for horizon, one in _sections(report, "returns"):
        bias, order = _n(one["bias"]), _n(one["spearman"])
        rows.append((f"imagined less realised return, {horizon} records", f"{bias} (rank correlation {order})"))
    if one := _there(report, "value"):
        low, high = one["ci95"]["bias"]
        bias = f"{_n(one['bias'])} ({_n(low)} to {_n(high)})"
        rows.append(("critic less what came", f"{bias} of {_n(one['mean_realised'])}"))
        low, high = one["ci95"]["explained_variance"]
        rows.append(("variance that the critic explains", f"{_n(one['explained_variance'])} ({_n(low)} to {_n(high)})"))
    if one := _there(report, "ranking"):
        low, high = one["ci95"]
        rows.append(("order of policies, rank correlation", f"{_n(one['spearman'])} ({_n(low)} to {_n(high)})"))
    if "ratio" in report.get("overfitting", {}):
        rows.append(("error in unseen episodes over that in the replay", _n(report["overfitting"]["ratio"])))
    if "active" in report.get("latents", {}):
        one = report["latents"]
        rows.append(("latents active", f"{one['active']} of {one['latents']}, {one.get('verdict', 'no decoder')}"))
    kinds: dict[str, list[float]] = {}
    for _, _, one in shifts(report):
        if one["performance_ratio"] is not None:
            kinds.setdefault(one["kind"], []).append(one["performance_ratio"])
    drops = [row["latent_drop"] for _, row in looks(report) if row["latent_drop"] is not None]
    if drops:
        rows.append(("R2 lost where the same states look otherwise", _n(float(np.mean(drops)))))
    rows += [(f"share of the return kept, {kind}", _n(float(np.mean(all_)))) for kind, all_ in kinds.items()]
    return rows


def _sections(report: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    return list(_there(report, name).items())


def _there(report: dict[str, Any], name: str) -> dict[str, Any]:
    """The section, or nothing where it is void or left out."""
    section: dict[str, Any] = report.get(name, {})
    return {} if section.keys() & {"void", "left_out"} else section


def _left_out(report: dict[str, Any]) -> Rows:
    return [(name, section["left_out"]) for name, section in report.items() if "left_out" in section]


def shifts(report: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, severity and row of each."""
    section = report.get("robustness", {})
    named = section.get("shifts", {}).items()
    return [(name, severity, row) for name, by_severity in named for severity, row in by_severity.items()]


def looks(report: dict[str, Any]) -> list[tuple[tuple[str, str], dict[str, Any]]]:
    """Name and severity of each shift of pictures that were drawn again, and its row."""
    named = report.get("appearance", {}).get("shifts", {}).items()
    return [((name, severity), row) for name, by_severity in named for severity, row in by_severity.items()]


def _n(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def describe(report: dict[str, Any]) -> Answer:
    """For a terminal."""
    return [table(("", "value"), headline(report), right=("value",)), *failures(report["controls"])]


def failures(controls: dict[str, Any]) -> list[str]:
    """In one line."""
    failed, count = [name for name, one in controls.items() if not one["passed"]], len(controls)
    return [f"{len(failed)} of {count} controls failed: {', '.join(failed)}" if failed else f"{count} controls passed"]


def as_page(report: dict[str, Any], pictures: Sequence[Path]) -> str:
    """One HTML page with everything in it."""
    meta = report["meta"]
    parts = [f"<h1>{html.escape(meta['task'])}: the world model of {html.escape(meta['name'])}</h1>"]
    parts.append(web_page.table(("", "value"), headline(report)))
    for path in pictures:
        parts.append(web_page.picture(path))
    parts += _controls(
        report["controls"], "Numbers that are known beforehand; a section that rests on a wrong one is void."
    )
    for title, what, heads, rows in tables(report):
        parts += [f"<h2>{html.escape(title)}</h2>", web_page.what(what), web_page.table(heads, rows)]
    parts += ["<h2>How it was made</h2>", web_page.table(("", ""), [(k, str(v)) for k, v in meta.items()])]
    return web_page.page(f"{meta['task']}: {meta['name']}", parts)


def as_ladder(found: dict[str, Any], rows: Sequence[Sequence[str]], name: str, picture: Path) -> str:
    """One page of a model's way through training; ``rows`` begin with the heads."""
    what = "Untrained networks and every checkpoint, on the same episodes. Errors are over the variance in training."
    parts = [f"<h1>{html.escape(name)}: does longer training improve the model?</h1>", web_page.what(what)]
    parts.append(web_page.picture(picture))
    parts += [web_page.warning(text) for text in found["warnings"]]
    parts.append(web_page.table(rows[0], rows[1:]))
    parts += _controls(
        found["controls"], "Errors fall with training (rank correlation), and the last is below the first."
    )
    return web_page.page(f"{name}: ladder", parts)


def _controls(controls: dict[str, Any], what: str) -> list[str]:
    rows: Rows = []
    for name, one in controls.items():
        verdict = '<span class="good">passed</span>' if one["passed"] else '<span class="bad">failed</span>'
        rows.append((html.escape(name), _n(one["value"]), html.escape(one["limit"]), verdict, html.escape(one["says"])))
    heads = ("control", "value", "limit", "", "what it guards")
    return ["<h2>Controls</h2>", web_page.what(what), web_page.table(heads, rows, raw=True)]


def tables(report: dict[str, Any]) -> list[tuple[str, str, tuple[str, ...], Rows]]:
    """Title, meaning, heads and rows of every section."""
    found: list[tuple[str, str, tuple[str, ...], Rows]] = []
    rows: Rows = []
    for target, features in _sections(report, "fidelity"):
        for feature, kinds in features.items():
            for kind, one in kinds.items():
                low, high = one["ci95"]
                cells = (_n(one["r2"]), f"{_n(low)} to {_n(high)}", _n(one.get("untrained")), _n(one.get("ceiling")))
                rows.append((target, feature, kind, *cells, _n(one["selectivity"])))
    what = (
        "R2 in unseen episodes of probes from a model's features to the simulator's numbers; beside it untrained "
        "networks, the environment's own observation, and how much more than targets of another episode is known."
    )
    heads: tuple[str, ...] = ("target", "features", "probe", "R2", "95 %", "untrained", "observation", "selectivity")
    found.append(("What the state knows", what, heads, rows))
    known = _sections(report, "imagined")
    horizons = sorted({h for _, by_horizon in known for h in by_horizon}, key=int)
    rows = [(target, *(_n(one[h]["r2"]) if h in one else "–" for h in horizons)) for target, one in known]
    if rows:
        what = "The same probes so many records ahead."
        found.append(("What imagined states know", what, ("target", *horizons), rows))
    for context, one in _sections(report, "forecast"):
        if "numbers" in one:
            numbers = one["numbers"]
            names: tuple[str, ...] = (
                "nmse",
                "nmse_persistence",
                "nmse_mean",
                "nmse_autoregression",
                "skill",
                "crps_skill",
                "coverage",
            )
            names = tuple(name for name in names if name in numbers)
            rows = [(str(h), *(_n(numbers[name][i]) for name in names)) for i, h in enumerate(numbers["horizons"])]
            what = (
                "Errors over the variance; skill is 1 less the error over that of the better of mean and last record."
            )
            found.append((f"Numbers ahead, {context} records seen", what, ("ahead", *names), rows))
        for name, image in one.get("images", {}).items():
            names = ("ssim", "persistence_ssim", "mean_ssim", "psnr", "moving_ssim", "persistence_moving_ssim", "skill")
            rows = [(str(h), *(_n(image[key][i]) for key in names)) for i, h in enumerate(image["horizons"])]
            what = "Beside repeating the last frame and the mean frame; moving pixels differ from the last frame seen."
            found.append((f"{name} ahead, {context} records seen", what, ("ahead", *names), rows))
        reward = one["reward"]
        rows = [(str(h), _n(reward["nmse"][i]), _n(reward["correlation"][i])) for i, h in enumerate(reward["horizons"])]
        found.append((f"Rewards ahead, {context} records seen", "", ("ahead", "error / variance", "correlation"), rows))
    rows = [
        (target, _n(one["sum_of_marginals"]), f"{sum(one['accepted'])} of {len(one['accepted'])}")
        for target, one in _sections(report, "information")
    ]
    what = "Sum over numbers of marginal information in nats (not joint), less what other episodes give by chance."
    found.append(("Information", what, ("target", "nats", "estimates accepted"), rows))
    if one := _there(report, "value"):
        rows = [
            (name.replace("_", " "), _n(one[name]), f"{_n(one['ci95'][name][0])} to {_n(one['ci95'][name][1])}")
            for name in ("bias", "rmse", "explained_variance", "correlation", "spearman")
        ]
        rows += [(name.replace("_", " "), _n(one[name]), "") for name in ("mean_promised", "mean_realised", "discount")]
        where = "restored states" if one["from"] == "states" else "the policy's own episodes"
        what = (
            f"Discounted rewards that really came, from {one['states']} records of {where}, beside what the critic "
            "says of them: its value, less the discounted value of where the sum ends."
        )
        found.append(("The critic", what, ("", "value", "95 %"), rows))
    if one := _there(report, "ranking"):
        rows = [(name, _n(policy["imagined"]), _n(policy["realised"])) for name, policy in one["policies"].items()]
        what = (
            f"Mean returns of policies from the same {one['states']} states, imagined and real; the one that the model "
            f"likes best is worth {_n(one['regret'])} less than the best."
        )
        found.append(("The order of policies", what, ("policy", "imagined", "realised"), rows))
    if one := _there(report, "overfitting"):
        rows = [
            (name, str(part["episodes"]), _n(part["error"]), f"{_n(part['ci95'][0])} to {_n(part['ci95'][1])}")
            for name, part in one.items()
            if isinstance(part, dict)
        ]
        unseen = "held out by the run" if one["held_out"] else "played for this report, by other policies too"
        what = f"Errors up to 15 ahead over those of the last record. Unseen episodes were {unseen}."
        found.append(("Replayed and unseen", what, ("", "episodes", "error", "95 %"), rows))
    keys = ("effect", "return", "performance_ratio", "latent_drop", "forecast_ratio")
    rows = [(f"{name} {severity}", *(_n(row[key]) for key in keys)) for name, severity, row in shifts(report)]
    if rows:
        heads = ("shift", "effect", "return", "share of the clean return", "loss of R2", "error ahead / clean")
        found.append(("Robustness", "Every shift with the measure of its effect.", heads, rows))
    keys = ("effect", "latent_drift", "latent_drop", "imagined_drop", "forecast_ratio")
    rows = [(f"{name} {severity}", *(_n(row[key]) for key in keys)) for (name, severity), row in looks(report)]
    if rows:
        heads = ("shift", "effect", "drift", "loss of R2", "loss 15 ahead", "error ahead / clean")
        what = (
            "Stored states drawn again under each shift: how far the model's state goes, over the median distance of "
            "two clean ones; what probes of clean states lose; predicted pictures, from those without the shift."
        )
        found.append(("The same states, looking otherwise", what, heads, rows))
    if left := _left_out(report):
        found.append(("Left out", "", ("section", "because"), left))
    return found
