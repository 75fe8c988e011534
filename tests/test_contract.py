"""The contract that every study keeps: what a phase declares is complete, consistent and written down in order."""

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from inscape.core.config import to_dict
from inscape.core.estimate import Estimate
from inscape.core.gate import Criterion
from inscape.core.rundir import RunDir
from inscape.core.runner import Request, run_study
from inscape.core.standing import judge
from inscape.core.study import SMOKE, Phase, Remedy, Study
from inscape.studies import all_studies, study

STUDIES = all_studies()
PHASES = [pytest.param(s, p, id=f"{s.name}.{p.code}") for s in STUDIES for p in s.phases]
each_phase = pytest.mark.parametrize(("study_of", "phase"), PHASES)


# --- what is declared ---------------------------------------------------------------------------------------------


def test_names_and_codes_are_unique() -> None:
    assert len({s.name for s in STUDIES}) == len(STUDIES) > 0
    for s in STUDIES:
        assert len({p.code.lower() for p in s.phases}) == len(s.phases) > 0
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", s.name)
        assert s.title
        assert s.hypothesis.endswith(".")
        assert study(s.name) is s


def test_an_unknown_study_is_answered_by_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"there is no study 'vizual'; there are: .*visual"):
        study("vizual")


@each_phase
def test_the_words_are_there(study_of: Study, phase: Phase) -> None:
    assert phase.question.endswith("?")
    assert phase.name
    assert phase.failure_means.endswith("."), "what a negative result would mean"


# They learn nothing that a control could be about: every criterion says whether an instrument is whole.
INSTRUMENTS = ("visual.P0", "audio-structure.A1")


@each_phase
def test_a_gate_has_a_control(study_of: Study, phase: Phase) -> None:
    controls = [c.metric for c in phase.gate.criteria if c.role == "control"]
    assert controls or f"{study_of.name}.{phase.code}" in INSTRUMENTS, "what would a broken instrument fail?"


@each_phase
def test_a_config_cannot_be_changed_on_the_way(study_of: Study, phase: Phase) -> None:
    assert phase.config.__dataclass_params__.frozen, "@dataclass(frozen=True)"


@each_phase
def test_every_preset_loads(study_of: Study, phase: Phase) -> None:
    assert phase.preset_names == ("smoke", "quick", "small", "full")
    for name in phase.preset_names:
        assert isinstance(phase.preset(name), phase.config)
        assert isinstance(phase.preset(name, ("data.text=own.tsv", "data.path=own")), phase.config)


@each_phase
def test_needs_exist_and_come_earlier(study_of: Study, phase: Phase) -> None:
    codes = [p.code for p in study_of.phases]
    assert {*phase.needs, *filter(None, (phase.mends,))} <= set(codes[: codes.index(phase.code)])


def criteria(phase: Phase) -> tuple[Criterion, ...]:
    return (*phase.gate.criteria, *(phase.across_seeds.criteria if phase.across_seeds else ()))


@each_phase
def test_criteria_are_named_and_explained(study_of: Study, phase: Phase) -> None:
    for criterion in criteria(phase):
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", criterion.metric)
        assert criterion.source == "plan" or criterion.why, f"{criterion}: why is it calibrated so?"
    for criterion in phase.across_seeds.criteria if phase.across_seeds and not phase.over_seeds else ():
        assert criterion.metric.startswith("spread_of_")


def applied(phase: Phase, preset: str, remedies: tuple[Remedy, ...]) -> Any:
    config = phase.preset(preset)
    for remedy in remedies:
        config = remedy.applied_to(config)
    return config


@each_phase
def test_remedies_apply_alone_and_together_and_change_something(study_of: Study, phase: Phase) -> None:
    metrics = {criterion.metric for criterion in criteria(phase)}
    for remedy in phase.remedies:
        assert remedy.why
        assert remedy.when
        assert set(remedy.when) <= metrics, "a remedy answers a metric of the gate"
        switches = not any(callable(new) for new in remedy.change.values())  # which a preset may have on already
        for preset in ("full",) if switches else phase.preset_names:
            assert applied(phase, preset, (remedy,)) != phase.preset(preset), f"{remedy.why}: changes nothing"
    for preset in phase.preset_names:
        applied(phase, preset, phase.remedies)


def test_remedies_of_p1_are_the_plans_at_every_size() -> None:
    phase = next(p for p in study("visual").phases if p.code == "P1")
    full = {key: value for remedy in phase.remedies for key, value in remedy.changes(phase.preset("full")).items()}
    assert full["weights.tv"] == pytest.approx(0.15)
    assert full["fit.lr"] == pytest.approx(1e-4)
    assert full["blur_steps"] == 5000
    quick = phase.preset("quick")
    changed = {key: value for remedy in phase.remedies for key, value in remedy.changes(quick).items()}
    assert changed["fit.lr"] == pytest.approx(quick.fit.lr / 2)
    assert quick.blur_steps < changed["blur_steps"] < quick.fit.steps


# --- how it is written down ---------------------------------------------------------------------------------------


def order_offences(source: str) -> list[str]:
    """Docstring -> Config -> GATE -> helpers -> run -> PHASE, by the lines of the syntax tree.

    Imports and constants may stand anywhere above PHASE: the order is that of what is defined.
    """
    tree = ast.parse(source)
    lines: dict[str, int] = {}
    functions: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            functions.append(node.name)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            lines[node.name] = node.lineno
        elif isinstance(node, ast.Assign):
            lines |= {target.id: node.lineno for target in node.targets if isinstance(target, ast.Name)}
    missing = [name for name in ("Config", "GATE", "run", "PHASE") if name not in lines]
    if missing:
        return [f"{name} is missing" for name in missing]
    found = [f"{name} stands above GATE" for name in functions if lines[name] < lines["GATE"]]
    found += [f"{name} stands below run" for name in lines if lines["run"] < lines[name] and name != "PHASE"]
    if lines["Config"] > lines["GATE"]:
        found.append("Config stands below GATE")
    if max(lines, key=lambda name: lines[name]) != "PHASE":
        found.append("PHASE is not last")
    return found


def docstring_offences(source: str) -> list[str]:
    """Question, method, paper, what a negative result would mean, cost: in this order."""
    words = " ".join((ast.get_docstring(ast.parse(source)) or "").split())
    parts = {
        "a question": r"^[^.?]+\?",
        "Method:": r"Method: ",
        "a paper with its year": r"[A-Z]\w+( et al\.)? (19|20)\d\d",
        "A negative result would mean": r"A negative result would mean",
        "Cost:": r"Cost: ",
    }
    found, at = [], 0
    for name, pattern in parts.items():
        match = re.compile(pattern).search(words, at)
        if match is None:
            found.append(f"the docstring lacks {name}, or has it in another place")
        else:
            at = match.end()
    return found


def source_of(phase: Phase) -> str:
    file = sys.modules[phase.run.__module__].__file__
    assert file is not None
    return Path(file).read_text(encoding="utf-8")


@each_phase
def test_the_phase_file_is_in_order(study_of: Study, phase: Phase) -> None:
    assert order_offences(source_of(phase)) == []
    assert docstring_offences(source_of(phase)) == []


IN_ORDER = "class Config: ...\nGATE = 1\ndef helper(): ...\ndef run(): ...\nPHASE = 1\n"


@pytest.mark.parametrize(
    "source",
    [
        IN_ORDER.replace("GATE = 1\n", ""),
        "GATE = 1\nclass Config: ...\ndef run(): ...\nPHASE = 1",
        "def helper(): ...\nclass Config: ...\nGATE = 1\ndef run(): ...\nPHASE = 1",
        "class Config: ...\ndef run(): ...\nGATE = 1\nPHASE = 1",
        "class Config: ...\nGATE = 1\ndef run(): ...\ndef helper(): ...\nPHASE = 1",
        "class Config: ...\nGATE = 1\nPHASE = 1\ndef run(): ...",
    ],
)
def test_a_file_out_of_order_is_seen(source: str) -> None:
    assert order_offences(IN_ORDER) == []
    assert order_offences(source)


TOLD = '"""P9: is it so?\n\nMethod: look (Field 1987).\n\nA negative result would mean no.\n\nCost: none.\n"""'


@pytest.mark.parametrize("missing", ["?", "Method:", "1987", "negative", "Cost:"])
def test_an_incomplete_docstring_is_seen(missing: str) -> None:
    assert docstring_offences(TOLD) == []
    assert len(docstring_offences(TOLD.replace(missing, "..."))) == 1


# --- the plan's numbers -------------------------------------------------------------------------------------------

PLAN_P1: dict[str, Any] = {
    "batch": 256,
    "blur_sigma": 0.8,
    "blur_steps": 2000,
    "coordinates": False,
    "encoder": {
        "vocab": 32_000,
        "d": 384,
        "layers": 6,
        "heads": 8,
        "ffn": 1536,
        "dropout": 0.1,
        "max_length": 64,
        "head": "grid",
        "map_channels": 64,
        "head_ffn": 768,
        "smoothing": False,
        "C": 6,
        "H": 32,
        "W": 32,
    },
    "weights": {"spectrum": 0.5, "tv": 0.1, "wavelet": 0.1, "kurtosis": 0.05, "covariance": 0.05, "variance": 0.05},
    "fit": {
        "steps": 50_000,
        "lr": 2e-4,
        "beta1": 0.9,
        "beta2": 0.95,
        "weight_decay": 0.01,
        "warmup_steps": 1000,
        "eval_every": 500,
        "ema_decay": 0.999,
    },
}


def picked(config: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """The part of `config` that `wanted` speaks of."""
    return {
        key: picked(config[key], value) if isinstance(value, dict) else config[key] for key, value in wanted.items()
    }


def test_full_is_the_plan() -> None:
    assert picked(to_dict(study("visual").phase("P1").preset("full")), PLAN_P1) == PLAN_P1


def test_the_plans_thresholds_stand_verbatim() -> None:
    plan = {str(c) for c in study("visual").phase("P1").gate.criteria if c.source == "plan"}
    assert "channels_in_slope_range >= 4" in plan
    assert {c.split()[0] for c in plan} >= {"channels_in_slope_range", "tv", "channel_correlation"}


# --- every phase runs, end to end -----------------------------------------------------------------------------------

ASKED = {".lock", "config.yaml", "gate.json", "env.json"}
MEASURED = {"metrics.json", "verdict.json", "report.html"}
TRAINED = {"log.jsonl"} | {
    f"checkpoints/step_N/{name}" for name in ("model.safetensors", "ema.safetensors", "optim.safetensors", "state.json")
}
LATENTS = {"evaluation_summary.json", "figures/captions.json", "metrics.csv"} | {
    f"figures/{name}.png"
    for name in (
        "steps/step_N_montage",
        "steps/step_N_spectra",
        "channel_covariance",
        "channel_montage",
        "gradient_histograms",
        "power_spectra",
        "statistics_vs_photographs",
        "trends",
    )
}
CODEC = TRAINED | LATENTS | {"codec.safetensors"}
PAST, PICTURE = ({f"{half}/{name}" for name in TRAINED} for half in ("past", "picture"))
STRUCTURE = (
    "cluster_sizes",
    "confidence",
    "lags",
    "mean_steps",
    "slices_and_control",
    "speakers",
    "variance_against_size",
    "variance_ratio",
)
ADAPTER = {f"training/{name}" for name in TRAINED} | {
    "adapter.safetensors",
    "answers.json",
    "questions.json",
    "training/diagnostics.jsonl",
}
HORIZONS = ("direction_by_horizon", "likelihood_by_horizon", "worst_frames")
LISTENER = TRAINED | {"audit.json"}
HEARD = {f"training/{name}" for name in LISTENER} | {
    *("captions.json", "data.json", "layers.json", "listener.safetensors"),
    *("figures/captions.json", "figures/conditions.png"),
}
OWN_FILES = {  # what a phase writes beside what every run has
    "visual.P0": {"data.json", "evaluation_pack.json", "tokenizer.json"},
    "visual.P1": TRAINED | LATENTS | {"encoder.safetensors"},
    "visual.P2": CODEC | PAST | PICTURE | {"figures/edit_bars.png", "figures/embedding_map.png"},
    "visual.P3": CODEC | PICTURE | {"figures/jitter_curve.png"},
    "visual.P4": CODEC | {"figures/attention_over_latent.png", "figures/noise_curve.png"},
    "visual.P5": CODEC | {"examples.json"},
    "visual.P6": CODEC
    | {f"{part}/{name}" for part in ("prior", "without_prior") for name in TRAINED}
    | {"examples.json", "prior.safetensors", "figures/samples.png"},
    "visual.P7": {
        *(f"arms/ARM/{name}" for name in ("codec.safetensors", "log.jsonl", "measured.json")),
        *(f"{part}/log.jsonl" for part in ("arms/ARM/picture", "arms/ARM/tail", "begun/START/past")),
        *("ablations/tables.csv", "figures/captions.json"),
        *(f"figures/{name}.png" for name in ("correlations", "losses", "slopes")),
    },
    "audio-structure.A0": {"corpus.json", "log.jsonl", "quarantine.json", "utterances.json"}
    | {f"splits/{name}.txt" for name in ("train_speakers", "eval_speakers", "train_utt_ids", "eval_utt_ids")}
    | {"speech/synthetic_voices.json", "speech/SPEAKER/UTTERANCE.flac"},
    "audio-structure.A1": {"latents_of.json", "log.jsonl"}
    | {f"figures/{name}" for name in ("captions.json", "latent_histograms.png", "latent_trajectories.png")}
    | {f"latents/{name}" for name in ("latents_index.parquet", "plan.json", "verification.json")}
    | {f"latents/shards/00000.{name}" for name in ("energy.npy", "json", "latents.npy")},
    "audio-structure.A2": {"frames.json", "phase0_frames.parquet"},
    "audio-structure.A3": {"conditioning.json", "log.jsonl"}
    | {f"conditioning/lag_{lag}.{kind}" for lag in (1, 2, 4) for kind in ("json", "npz")},
    "audio-structure.A4": {"log.jsonl", "figures/captions.json"}
    | {f"measured/lag_{lag}.json" for lag in ("1", "2", "4", "1_centred")}
    | {f"phase0/{name}" for name in ("metrics.json", "tables.csv", "report.txt", "decision.json")}
    | {f"{folder}/{name}.png" for folder in ("figures", "phase0/plots") for name in STRUCTURE},
    "audio-structure.T1": {f"{part}/{name}" for part in ("k1", "k2", "strangers") for name in TRAINED}
    | {f"predictor_{part}.safetensors" for part in ("k1", "k2", "strangers")}
    | {"horizons.csv", "worst_frames.json", "figures/captions.json"}
    | {f"figures/{name}.png" for name in HORIZONS},
    "audio-structure.T2": {f"{part}/{name}" for part in ("k1", "k2") for name in TRAINED}
    | {f"predictor_{part}.safetensors" for part in ("k1", "k2")}
    | {"horizons.csv", "worst_frames.json", "figures/captions.json", "figures/certainty.png"}
    | {f"figures/{name}.png" for name in HORIZONS},
    "audio-structure.T3": {f"rollout/{name}" for name in TRAINED}
    | {"predictor_rollout.safetensors", "injection.csv", "figures/captions.json", "figures/rollout_cosine.png"}
    | {f"figures/injection_{name}.png" for name in ("dnll", "direction_cosine", "magnitude_ratio", "state_error")},
    "audio-structure.T4": {
        f"{kind}_log_mel_{rate}hz/{name}"
        for kind in ("naive", "matched")
        for rate in ("12_5", "50")
        for name in TRAINED
    }
    | {f"latents_1/{name}" for name in ("latents_index.parquet", "plan.json", "verification.json")}
    | {f"latents_1/shards/00000.{name}" for name in ("energy.npy", "json", "latents.npy")}
    | {"representations.csv", "figures/captions.json", "figures/representations.png"},
    "prompt-compression.C0": {"answers.json", "questions.json"}
    | {"ledger.json", "figures/captions.json", "figures/ledger.png"},
    "prompt-compression.C1": ADAPTER,
    "prompt-compression.C2": ADAPTER,
    "prompt-compression.C3": {
        *("frontier.json", "frontier.csv", "questions.json", "figures/captions.json", "figures/frontier.png")
    },
    "audio-fusion.identity": {
        *(f"clips_{split}.json" for split in ("train", "validation", "held_out")),
        *(f"features_{split}.npy" for split in ("train", "validation", "held_out", "silence")),
        *(f"language_model/{name}" for name in ("config.json", "generation_config.json", "model.safetensors")),
        *(f"language_model/{name}" for name in ("tokenizer.json", "tokenizer_config.json")),
        *(f"language/{name}" for name in TRAINED),
        *("data.json", "encoder.json", "kinds.json", "leaks.json", "plan_sizes.json", "quarantine.json"),
    },
    "audio-fusion.connectivity": {"data.json", "layers.json", "listener.safetensors"}
    | {f"training/{name}" for name in LISTENER},
    "audio-fusion.phase1": HEARD | {"log.jsonl"},  # that so few are held out
    "audio-fusion.phase2": HEARD | {"log.jsonl"},
    "audio-fusion.retention": {
        f"{kind}/{name}" for kind in ("none", "soft", "fisher", "nullspace", "full") for name in LISTENER
    }
    | {"data.json", "figures/captions.json", "figures/retention.png"},
    "audio-fusion.fixes": {
        f"{variant}/{name}"
        for variant in (
            *("baseline", "phase1", "strangers"),
            *(
                f"{how}_{fix}"
                for how in ("only", "without")
                for fix in ("capacity", "scale", "gate", "warmup", "rates")
            ),
        )
        for name in LISTENER
    }
    | {"data.json", "figures/captions.json", "figures/fixes.png"},
    "prompt-compression.C4": {f"training/{name}" for name in TRAINED}
    | {"answers.json", "questions.json", "teacher.json", "sequence_compressor.safetensors"},
}


@pytest.fixture(scope="module")
def smoke_runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDir]:
    """Every study run whole at the smoke preset, with reports: `study.phase` -> its run."""
    from inscape.report import write_report

    def report(run: RunDir) -> None:
        write_report(run)

    wish = Request(preset=SMOKE, device="cpu", root=tmp_path_factory.mktemp("runs"))
    runs = [run for s in STUDIES for run in run_study(s, s.phases, wish, lambda _: None, report)]
    asked = [(run, run.read_json(RunDir.ENV)) for run in runs]
    return {f"{env['study']}.{env['phase']}": run for run, env in asked}


def written(run: RunDir) -> set[str]:
    files = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    named = {re.sub(r"step_\d+", "step_N", name) for name in files if not name.startswith("tensorboard/")}
    named = {
        re.sub(r"^(arms/)[^/]+|^(begun/)[^/]+", lambda m: f"{m[1]}ARM" if m[1] else f"{m[2]}START", n) for n in named
    }
    return {re.sub(r"^speech/[^/]+/[^/]+\.flac$", "speech/SPEAKER/UTTERANCE.flac", name) for name in named}


@each_phase
def test_a_smoke_run_writes_exactly_its_files(study_of: Study, phase: Phase, smoke_runs: dict[str, RunDir]) -> None:
    code = f"{study_of.name}.{phase.code}"
    assert code in OWN_FILES, f"name in OWN_FILES, in this file, what {code} writes beside what every run has"
    assert written(smoke_runs[code]) == ASKED | MEASURED | OWN_FILES[code]


@each_phase
def test_a_smoke_run_measures_what_its_gate_asks(study_of: Study, phase: Phase, smoke_runs: dict[str, RunDir]) -> None:
    run = smoke_runs[f"{study_of.name}.{phase.code}"]
    metrics = {name: Estimate.from_json(fields) for name, fields in run.read_json(RunDir.METRICS).items()}
    asked = {c.metric for c in phase.gate_of(phase.preset(SMOKE)).criteria} | {
        c.metric.removeprefix("spread_of_")
        for c in (phase.across_seeds.criteria if phase.across_seeds else ())
        if c.metric.startswith("spread_of_")
    }
    assert asked <= {name for name, estimate in metrics.items() if estimate.measured}
    assert all(re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name) for name in metrics)
    assert run.read_json(RunDir.VERDICT)["outcome"] == judge(run).outcome
