"""The blind page: nothing names a method, a real browser can be led through it, answers come back as scores."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from manifests.errors import UsageError
from pipelines.evaluate.intervals import wilson
from pipelines.evaluate.preference import Group, score_answers, write_page

METHODS = ("adapter with everything", "copy-and-blend", "plain base")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


def group(number: int) -> Group:
    results = {
        method: np.full((32, 40, 3), (40 * number, 80 * index, 128), np.uint8) for index, method in enumerate(METHODS)
    }
    scene = np.full((32, 40, 3), 200, np.uint8)
    return Group(f"group {number}", f"subject{number % 2}", "a </script> <b>mug</b>", results, scene, scene)


GROUPS = [group(number) for number in range(4)]


def study(folder: Path, kind: str, seed: int = 0) -> tuple[dict, dict]:
    write_page(GROUPS, folder, kind=kind, question="Which is best?", seed=seed)
    html = (folder / "page" / "index.html").read_text()
    data = html.split('id="data">')[1].split("</script>")[0]
    return json.loads(data), json.loads((folder / "key.json").read_text())


@pytest.mark.parametrize("kind", ["pairs", "ranking"])
def test_page_names_no_method_and_no_group(tmp_path, kind):
    study(tmp_path, kind)
    text = (tmp_path / "page" / "index.html").read_text()
    assert not [word for word in (*METHODS, "group 0", "subject0") if word in text]
    names = [path.name for path in (tmp_path / "page" / "pictures").iterdir()]
    assert all(name.removesuffix(".png").isdigit() for name in names)


def test_same_seed_gives_the_same_bytes_and_another_another_order(tmp_path):
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        study(tmp_path / name, "pairs", seed)
    page = [(tmp_path / name / "page" / "index.html").read_bytes() for name in ("one", "two", "three")]
    assert page[0] == page[1] != page[2]
    assert len(json.loads((tmp_path / "one" / "key.json").read_text())["questions"]) == 4 * 3


def test_places_are_drawn_and_not_given_away(tmp_path):
    """Over many questions each method stands first about as often."""
    write_page([group(number) for number in range(6)] * 1, tmp_path, kind="ranking", question="?")
    first = [entry["methods"][0] for entry in json.loads((tmp_path / "key.json").read_text())["questions"]]
    assert len(set(first)) > 1


def test_one_method_is_no_choice(tmp_path):
    lonely = Group("g", "s", "", {"only": np.zeros((8, 8, 3), np.uint8)}, None, None)
    with pytest.raises(UsageError, match="g has one method; a preference needs two"):
        write_page([lonely], tmp_path, kind="pairs", question="?")


def answer(folder: Path, key: dict, favourite: str, name: str) -> Path:
    """Answers of someone who always puts one method first and keeps the others as they stand."""
    answers = []
    for entry in key["questions"]:
        order = sorted(range(len(entry["methods"])), key=lambda place: entry["methods"][place] != favourite)
        answers.append({"number": entry["number"], "order": order})
    (folder / name).write_text(json.dumps({"study": key["study"], "answers": answers}))
    return folder / name


def test_pairs_are_scored_as_shares_with_wilsons_interval(tmp_path):
    _, key = study(tmp_path, "pairs")
    found = score_answers(tmp_path / "key.json", [answer(tmp_path, key, METHODS[2], "a.json")])
    assert found[0].method == METHODS[2]
    assert found[0].value == 1
    assert (found[0].low, found[0].high) == wilson(8, 8)
    # Newcombe 1998, table I: 81 of 263
    assert wilson(81, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
    assert sum(one.value * one.answers for one in found) == 4 * 3


def test_rankings_are_scored_as_mean_places_over_raters(tmp_path):
    _, key = study(tmp_path, "ranking")
    files = [answer(tmp_path, key, METHODS[0], "a.json"), answer(tmp_path, key, METHODS[0], "b.json")]
    found = score_answers(tmp_path / "key.json", files)
    assert found[0].method == METHODS[0]
    assert found[0].value == found[0].low == found[0].high == 1
    assert sum(one.value for one in found) == pytest.approx(1 + 2 + 3)
    assert {one.raters for one in found} == {2}


def test_answers_of_another_study_or_to_no_question_are_refused(tmp_path):
    _, key = study(tmp_path, "pairs")
    (tmp_path / "other.json").write_text(json.dumps({"study": "0", "answers": []}))
    with pytest.raises(UsageError, match="answers study 0"):
        score_answers(tmp_path / "key.json", [tmp_path / "other.json"])
    for wrong in ({"number": 99, "order": [0, 1]}, {"number": 0, "order": [0, 0]}, "x"):
        (tmp_path / "bad.json").write_text(json.dumps({"study": key["study"], "answers": [wrong]}))
        with pytest.raises(UsageError, match="answers no question"):
            score_answers(tmp_path / "key.json", [tmp_path / "bad.json"])


class Browser:
    """Chromium without a window, spoken to in the DevTools protocol over a pipe (`--remote-debugging-pipe`)."""

    def __init__(self, folder: Path) -> None:
        assert CHROMIUM is not None
        command_read, self._commands = os.pipe()
        self._events, event_write = os.pipe()

        def at_3_and_4() -> None:
            kept = [os.dup(command_read), os.dup(event_write)]
            kept = [os.dup2(end, high) for end, high in zip(kept, (53, 54), strict=True)]
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        self._process = subprocess.Popen(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--no-first-run", "--disable-background-networking", f"--user-data-dir={folder}",
                "--remote-debugging-pipe", "about:blank",
            ],
            preexec_fn=at_3_and_4, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(command_read)
        os.close(event_write)
        self._buffer, self._number = b"", 0

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._buffer:
                piece = os.read(self._events, 1 << 16)
                assert piece, "the browser is gone"
                self._buffer += piece
            text, _, self._buffer = self._buffer.partition(b"\0")
            reply = json.loads(text)
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return reply["result"]

    def close(self) -> None:
        self.call("Browser.close")
        self._process.wait(20)
        os.close(self._commands)
        os.close(self._events)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium to open the preference page with")
@pytest.mark.parametrize("kind", ["pairs", "ranking"])
def test_browser_is_led_from_the_first_question_to_the_saved_file(tmp_path, kind):
    data, key = study(tmp_path, kind)
    browser = Browser(tmp_path / "profile")
    try:
        target = browser.call("Target.createTarget", url=(tmp_path / "page" / "index.html").as_uri())["targetId"]
        session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))

        def run(script: str) -> object:
            reply = browser.call("Runtime.evaluate", session, expression=script, returnByValue=True)
            assert "exceptionDetails" not in reply, reply
            return reply["result"].get("value")

        def wait_for(script: str) -> object:
            for _ in range(300):
                if found := run(script):
                    return found
                time.sleep(0.05)
            raise AssertionError(script)

        loaded = "document.images.length > 2 && [...document.images].every(i => i.complete && i.naturalWidth > 0)"
        wait_for(f"document.readyState === 'complete' && {loaded}")
        # what a prompt says is text, not markup
        assert run("document.getElementById('prompt').textContent") == "a </script> <b>mug</b>"
        width = 2 if kind == "pairs" else 3
        for number in range(len(data["questions"])):
            assert wait_for(
                f"document.getElementById('count').textContent === '{number + 1} of {len(data['questions'])}.'"
            )
            assert wait_for(loaded)
            assert run("document.querySelectorAll('#results button').length") == width
            # the last place first: an order that is not the one things stand in
            for place in range(width - 1, 0, -1):
                run(f"document.querySelectorAll('#results button')[{place}].click()")
            if number == 0:
                run("document.getElementById('back').click()")
                assert run("document.getElementById('count').textContent").startswith("1 of")
                for place in range(width - 1, 0, -1):
                    run(f"document.dispatchEvent(new KeyboardEvent('keydown', {{key: '{place + 1}'}}))")
        assert wait_for("document.getElementById('asked').hidden && !document.getElementById('save').hidden")
        (tmp_path / "saved").mkdir(exist_ok=True)
        run("document.getElementById('save').click()")
        for _ in range(300):
            if saved := list((tmp_path / "saved").glob("answers-*.json")):
                break
            time.sleep(0.05)
    finally:
        browser.close()
    answers = json.loads(saved[0].read_text())
    assert answers["study"] == key["study"]
    assert [one["number"] for one in answers["answers"]] == [one["number"] for one in data["questions"]]
    assert all(one["order"] == list(range(width - 1, -1, -1)) for one in answers["answers"])
    found = score_answers(tmp_path / "key.json", saved)
    assert {one.method for one in found} == set(METHODS)
