"""What the page does where answers come late, wrong or not at all: its scripts in node, over a page that is none."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import inscape.explore

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no node here: the page's scripts are run by it")
HERE = Path(__file__).parent
STATIC = Path(inscape.explore.__file__).with_name("static")

Play = Callable[[str], Any]

BEGINNING = 'import { $, about, asked, encodedOf, readingOf, settle } from "./fake_page.js";\nconst told = {};\n'
TOUCH = """
const { startTouch } = await import("./touch.js");
startTouch(about);
await settle();
asked("encode").answer(encodedOf("one ball"));
await settle();
const write = (text) => { $("sentence").value = text; $("sentence").happens("input"); };
[$("size").value, $("level").value] = ["3", "2"];
const paint = () => $("canvas").happens("keydown", { key: " " });
$("canvas").happens("focus");
"""
TWO = """
const { openTwo, startTwo } = await import("./two.js");
startTwo(about);
const side = (value, warning) => ({ latent: new Float32Array(16).fill(value), warning });
const pair = (value, warning = "") => {
  const [first, second] = [side(value, warning), side(value, warning)];
  return { first, second, cosine: value, edit: "none" };
};
const said = (text) => ({ reading: readingOf(text), cosine: 0.5 });
const met = async (value, text, warning = "") => {
  asked("compare").answer(pair(value, warning));
  await settle();
  for (const _ of "12") asked("read").answer(said(text));
  await settle();
  asked("interpolate").answer({ steps: [{ share: 0, sentence: text }] });
  await settle();
};
const write = async (text) => { $("first").value = text; $("first").happens("input"); await settle(); };
openTwo();
await settle();
await met(0.25, "one ball", "a doubt");
"""


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Runs a scene in node and returns what it puts into `told`."""
    for file in (*STATIC.iterdir(), HERE / "fake_page.js"):
        shutil.copy(file, tmp_path)
    shutil.copy(HERE / "fake_backend.js", tmp_path / "backend.js")
    (tmp_path / "package.json").write_text('{"type": "module"}')

    def played(scene: str) -> Any:
        (tmp_path / "scene_of_the_test.js").write_text(
            f"{BEGINNING}{scene}\nconsole.log(JSON.stringify(told));\nprocess.exit();\n"
        )
        command = [str(NODE), str(tmp_path / "scene_of_the_test.js")]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return played


# --- the first part -----------------------------------------------------------------------------------------------


def test_what_went_wrong_with_an_earlier_picture_is_not_said_of_a_newer_one(play: Play) -> None:
    told = play(f"""{TOUCH}
        paint();
        await settle();
        asked("read").refuse(new Error("late"));
        await settle();
        told.first = $("read-problem").textContent;
        paint();
        await settle();
        write("two balls");
        await settle();
        asked("encode").answer(encodedOf("two balls"));
        await settle();
        told.cleared = $("read-problem").textContent;
        asked("read").refuse(new Error("too late"));
        await settle();
        told.late = $("read-problem").textContent;
    """)
    assert told == {"first": "late", "cleared": "", "late": ""}


def test_a_picture_out_of_noise_begins_afresh(play: Play) -> None:
    told = play(f"""{TOUCH}
        paint();
        await settle();
        asked("read").refuse(new Error("late"));
        await settle();
        write("two balls");
        await settle();
        $("draw").happens("click");
        await settle();
        asked("sample").answer(encodedOf("noise"));
        await settle();
        told.problem = $("read-problem").textContent;
        asked("encode").answer(encodedOf("two balls"));
        await settle();
        told.said = $("said").textContent;
        $("draw").happens("click");
        await settle();
        write("three balls");
        asked("sample").refuse(new Error("no prior"));
        await settle();
        told.refused = $("sentence-problem").textContent;
    """)
    assert told["problem"] == ""
    assert told["said"].startswith("noise"), "the sentence that was asked about before it is dropped"
    assert told["refused"] == "", "it was typed at meanwhile"


def test_a_refusal_of_other_words_for_an_earlier_sentence_is_dropped(play: Play) -> None:
    told = play(f"""{TOUCH}
        await settle();
        const early = asked("paraphrase");
        write("two balls");
        early.refuse(new Error("of one ball"));
        await settle();
        told.problem = $("paraphrase-problem").textContent;
    """)
    assert told["problem"] == ""


def test_no_button_that_has_the_focus_is_disabled(play: Play) -> None:
    """It would lose the focus; one that is only called so does nothing."""
    told = play(f"""{TOUCH}
        const off = (id) => $(id).getAttribute("aria-disabled");
        const look = () => ["undo", "redo", "reset"].map(off);
        told.begun = look();
        $("undo").happens("click");
        $("reset").happens("click");
        told.nothing = $("done").textContent;
        paint();
        told.painted = look();
        $("undo").happens("click");
        told.undone = look();
        paint();
        $("reset").happens("click");
        told.reset = [look(), $("done").textContent];
        $("donor").value = "a ring";
        $("donate").happens("submit");
        $("donate").happens("submit");
        await settle();
        told.asked = globalThis.questions.filter(({{ name }}) => name === "encode").length;
        told.waiting = off("swap");
        asked("encode").answer(encodedOf("a ring"));
        await settle();
        told.swapped = off("swap");
        told.native = ["undo", "redo", "reset", "swap"].filter((id) => "disabled" in $(id));
    """)
    assert told["native"] == []
    assert told["begun"] == ["true", "true", "true"]
    assert told["nothing"] == ""
    assert told["painted"] == ["false", "true", "false"]
    assert told["undone"] == ["true", "false", "true"]
    assert told["reset"] == [["false", "true", "true"], "As it was encoded"]
    assert told["asked"] == 1, "while one is on its way, no second"
    assert (told["waiting"], told["swapped"]) == ("true", "false")


# --- the second part ----------------------------------------------------------------------------------------------


def test_a_mixture_of_an_earlier_pair_is_not_shown_under_a_newer_one(play: Play) -> None:
    told = play(f"""{TWO}
        told.before = $("mixed-said").textContent;
        $("share").value = "0.5";
        $("share").happens("input");
        await settle();
        const late = [asked("read"), asked("read")];
        await write("two balls");
        asked("compare").answer(pair(0.75));
        await settle();
        for (const one of late) one.answer(said("one ball and a half"));
        await settle();
        told.late = $("mixed-said").textContent;
        for (const _ of "12") asked("read").answer(said("two balls"));
        await settle();
        told.after = $("mixed-said").textContent;
    """)
    assert told == {"before": "one ball", "late": "one ball", "after": "two balls"}


def test_nor_is_what_went_wrong_with_it(play: Play) -> None:
    told = play(f"""{TWO}
        $("share").happens("input");
        await settle();
        const late = [asked("read"), asked("read")];
        await write("two balls");
        asked("compare").answer(pair(0.75));
        await settle();
        for (const one of late) one.refuse(new Error("late"));
        await settle();
        told.late = $("two-problem").textContent;
        for (const _ of "12") asked("read").refuse(new Error("gone"));
        await settle();
        told.own = [$("two-problem").textContent, $("mixed-said").textContent];
    """)
    assert told == {"late": "", "own": ["gone", ""]}


def test_of_a_pair_that_is_refused_nothing_is_left(play: Play) -> None:
    told = play(f"""{TWO}
        const places = ["first-warning", "second-warning", "apart", "mixed-said", "way"];
        const look = () => [$("mixed").painted, ...places.map((id) => $(id).textContent)];
        told.before = look();
        await write("");
        asked("compare").refuse(Object.assign(new Error("first is empty"), {{ field: "first" }}));
        await settle();
        told.after = look();
        told.problem = $("first-problem").textContent;
    """)
    assert told["before"][:3] == [True, "a doubt", "a doubt"]
    assert all(told["before"])
    assert told["after"] == [False, "", "", "", "", ""]
    assert told["problem"] == "first is empty"


@pytest.mark.parametrize(("part", "place"), [("", "sentence-problem"), ("#/two", "two-problem")])
def test_a_codec_that_cannot_be_started_says_so_where_one_is(play: Play, part: str, place: str) -> None:
    told = play(f"""
        location.hash = "{part}";
        $("weights").textContent = "The codec is being loaded: 9 MB …";
        await import("./main.js");
        await settle();
        asked("codec").refuse(new Error("config.json cannot be fetched"));
        await settle();
        told.shown = ["touch", "two"].filter((id) => !$(id).hidden);
        told.said = $("{place}").textContent;
        told.weights = $("weights").textContent;
        told.ready = document.documentElement.dataset.ready;
    """)
    assert told["shown"] == ["two" if part else "touch"]
    assert (told["said"], told["weights"], told["ready"]) == ("config.json cannot be fetched", "", "yes")


# --- the last part ------------------------------------------------------------------------------------------------


RUN = {
    "title": "Pictures", "preset": "quick", "seed": 0, "outcome": "UNFINISHED", "question": "?", "sentence": "",
    "running": True, "finished": False, "declared": True, "findings": [], "figures": [], "others": [], "notices": [],
    "inputs": [], "problems": [], "versions": {}, "command": "inscape run", "trainings": [], "writing": "",
}  # fmt: skip
FOLLOW = f"""
const {{ openRuns }} = await import("./runs.js");
$("runs").hidden = false;
const run = {json.dumps(RUN)};
const state = {{ total: 9, finished: false, running: true, writing: "" }};
const log = (lines, more = {{}}) => ({{ lines, next: lines.length, ...state, ...more }});
const line = (step) => ({{ kind: "train", step, total: 8, loss: 1 / step, terms: {{}}, seconds: 60 }});
const answer = async (one) => {{
  const question = asked("get");
  question.answer(one);
  await settle();
  return question.words[0];
}};
openRuns("a/b/c/d");
await settle();
"""


def test_of_a_run_that_is_followed_only_what_changes_its_course_is_announced(play: Play) -> None:
    told = play(f"""{FOLLOW}
        await answer(run);
        told.figures = [];
        for (const lines of [[line(1)], [line(1), line(2)], [line(1), line(2), line(3)]]) {{
          await answer(log(lines));
          told.figures.push($("run").textContent.match(/step (\\d of 8), loss/)[1]);
          told.roles = $("run").children.filter((child) => child.role === "status").length;
        }}
        await answer(log([1, 2, 3].map(line), {{ running: false }}));
        await answer(log([1, 2, 3, 4].map(line)));
        asked("get").refuse(new Error("no answer"));
        await settle();
        await answer(log([1, 2, 3, 4].map(line), {{ total: 4, finished: true }}));
        await answer({{ ...run, running: false, finished: true }});
        told.announced = $("runs-told").told.filter(Boolean);
    """)
    assert told["figures"] == ["1 of 8", "2 of 8", "3 of 8"]
    assert told["announced"] == [
        "Running",
        "Not finished. Nothing was written for a while.",
        "Running",
        "no answer",
        "The run has ended; what it found is shown.",
    ]
    assert told["roles"] == 0, "the line of figures is not read out"


def test_a_run_that_stands_still_is_followed_from_training_to_training(play: Play) -> None:
    told = play(f"""{FOLLOW}
        const past = {{ part: "begun/0/past", train: {{ loss: [[1, 1], [2, 0.5]] }}, eval: {{}} }};
        await answer({{ ...run, running: false, trainings: [past] }});
        told.asked = [await answer(log([], {{ total: 0, running: false }}))];
        told.still = $("run").textContent.match(/Not finished: nothing was logged yet/)?.[0];
        const more = {{ total: 1, writing: "arms/w #1" }};
        told.asked.push(await answer(log([{{ kind: "shards", done: 3, total: 9 }}], more)));
        told.asked.push(await answer(log([line(1), line(2)], {{ ...more, total: 2 }})));
        told.step = $("run").textContent.match(/Running [^:]*: step [^,]*/)[0];
        told.asked.push(await answer(log([line(3)], {{ ...more, next: 3, total: 3, writing: "begun/0/past" }})));
        told.asked.push(asked("get").words[0]);
        const live = $("run").children.find((child) => child.id === "live");
        told.trainings = live.children.map((child) => child.children[0].textContent);
        told.drawn = live.children.map((child) => child.children[1].childElementCount);
    """)
    log = "api/runs/a/b/c/d/log?after="
    part = "api/runs/a/b/c/d/arms/w%20%231/log?after="
    assert told["asked"] == [f"{log}0", f"{log}0", f"{part}0", f"{part}2", "api/runs/a/b/c/d/begun/0/past/log?after=0"]
    assert told["still"]
    assert told["step"] == "Running (arms/w #1): step 2 of 8"
    assert told["trainings"] == ["Training begun/0/past", "Training arms/w #1"]
    assert told["drawn"] == [1, 1], "what was drawn stays"


def test_a_training_that_begins_while_the_page_is_open_is_drawn_unfolded(play: Play) -> None:
    told = play(f"""{FOLLOW}
        const of = (part) => ({{ part, train: {{ loss: [[1, 1], [2, 0.5]] }}, eval: {{}} }});
        await answer({{ ...run, trainings: [of("past"), of("picture")], writing: "picture" }});
        await answer(log([line(1)], {{ total: 1, writing: "arms/full" }}));
        await answer(log([line(1), line(2)], {{ total: 2, writing: "arms/full" }}));
        const live = $("run").children.find((child) => child.id === "live");
        told.open = live.children.map((child) => [child.children[0].textContent, child.open]);
    """)
    assert told["open"] == [["Training past", False], ["Training picture", True], ["Training arms/full", True]]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ({"kind": "shards", "done": 3, "total": 9}, "shards: 3 of 9"),
        ({"kind": "lag", "lag": 4}, "lag: lag 4"),
        ({"kind": "notice", "text": "halved"}, "notice: halved"),
        ({"kind": "eval", "step": 5, "alpha": 2.00001, "of": [1]}, "eval: step 5, alpha 2"),
        ({"kind": "train", "step": 2, "loss": 0.5}, "step 2, loss 0.5"),
        ({"kind": "damaged"}, "damaged"),
    ],
)
def test_each_kind_of_line_is_told(play: Play, line: dict[str, Any], said: str) -> None:
    told = play(f"""{FOLLOW}
        await answer(run);
        await answer(log([{json.dumps(line)}]));
        told.said = $("run").children.find((child) => child.textContent.startsWith("Running")).textContent;
    """)
    assert told["said"] == f"Running: {said}"


def test_a_training_whose_log_has_gone_is_followed_no_further(play: Play) -> None:
    told = play(f"""{FOLLOW}
        await answer({{ ...run, writing: "arms/gone" }});
        const question = asked("get");
        question.refuse(new Error("no training 'arms/gone'"));
        await settle();
        told.asked = [question.words[0], await answer(log([], {{ total: 0 }}))];
    """)
    assert told["asked"] == ["api/runs/a/b/c/d/arms/gone/log?after=0", "api/runs/a/b/c/d/log?after=0"]


def test_a_run_on_a_corpus_of_the_users_own_is_said_to_be_that_and_nothing_worse(play: Play) -> None:
    told = play(f"""{FOLLOW}
        const warned = async (changes) => {{
          await answer({{ ...run, finished: true, running: false, ...changes }});
          const found = $("run").children.find((child) => child.className === "warning")?.textContent ?? "";
          openRuns("a/b/c/d");
          await settle();
          return found;
        }};
        told.none = await warned({{}});
        told.corpus = await warned({{ corpus: ["data.text=own.tsv"] }});
        told.changed = await warned({{ corpus: ["data.text=own.tsv"], overrides: {{ lr: 1 }}, declared: false }});
    """)
    own = "It is about the corpus data.text=own.tsv, whose runs are a ladder of their own."
    assert told["none"] == ""
    assert told["corpus"] == own
    assert told["changed"] == f"{own} Its config was changed by hand: lr=1. It opens no gate."


def test_ladders_are_listed_by_their_corpus(play: Play) -> None:
    told = play("""
        const { openRuns } = await import("./runs.js");
        const ladder = (corpus, standing) => ({ preset: "quick", corpus, standing, runs: [] });
        const presets = [ladder([], "FAIL"), ladder(["data.text=x"], "PASS")];
        const phase = { code: "P1", name: "Pictures", question: "?", presets };
        openRuns("");
        await settle();
        const study = { name: "visual", title: "", hypothesis: "", phases: [phase] };
        asked("get").answer({ studies: [study], unreadable: [] });
        await settle();
        const listed = $("runs-list").children.filter(({ name }) => name === "details");
        told.said = listed.map((one) => one.children[0].textContent);
    """)
    assert told["said"] == ["P1 Pictures, quick ✗ FAIL", "P1 Pictures, quick on data.text=x ✓ PASS"]
