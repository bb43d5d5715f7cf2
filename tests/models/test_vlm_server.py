"""The client of a vision-language model's server: no fault of the server's loses, doubles or spoils a subject."""

from __future__ import annotations

import numpy as np
import pytest

from dataforge.backends.vlm_server import VlmServer
from dataforge.protocols import Description, Look, Photo
from manifests.errors import EnvironmentFault, Fault, UsageError
from tests.models.chat_server import FAULTS, ChatServer

JPEG = b"\xff\xd8\xff\xd9"  # this server looks at no picture


def client(server: ChatServer, **options) -> VlmServer:
    quick = {"timeout_s": 0.5, "deadline_s": 20.0, "batch_size": 64}
    return VlmServer(url=server.url, model="m", allow_http=True, **(quick | options))


def look(noun: str, photographs: int = 1) -> Look:
    ids = [f"{noun}/src-{number:012x}" for number in range(photographs)]
    return Look(class_noun=noun, scenes=dict.fromkeys(ids, JPEG), cutouts=dict.fromkeys(ids, JPEG))


def letters(number: int) -> str:
    return "thing " + "".join(chr(97 + int(digit)) for digit in f"{number:04}")


def test_a_thousand_subjects_with_a_fifth_of_all_answers_bad_lose_and_double_none():
    looks = [look(letters(number)) for number in range(1000)]
    # a stall has to be told from a machine that is busy: the wait is long, and few wait at a time
    with ChatServer(0.25, seed=1, stall_s=4.0) as server:
        answers = client(server, timeout_s=3.0, deadline_s=60.0).describe_looks(looks)
    refused = [answer for answer in answers if isinstance(answer, Fault)]
    print(f"{sum(server.faults.values())} requests, {dict(server.faults)}, {len(refused)} refused twice")
    assert sum(server.faults.values()) - server.faults["none"] >= 0.2 * sum(server.faults.values())
    assert set(FAULTS) <= set(server.faults)
    assert len(answers) == 1000
    # an answer that does not fit is asked for twice: two bad shapes in a row are the one way to have none
    assert len(refused) <= 20
    assert {answer.code for answer in refused} <= {"E223"}
    for asked, answer in zip(looks, answers, strict=True):
        if isinstance(answer, Description):
            assert answer.captions == dict.fromkeys(asked.scenes, f"{asked.class_noun} number 0 on a table")
            assert {word.word for word in answer.words} == {"red", f"like {asked.class_noun}"[:16].strip(), "oak"}


@pytest.mark.parametrize("fault", ["500", "reset", "stall", "html", "cut json", "short body", "429", "redirect"])
def test_an_outage_ends_the_build_with_exit_5_after_twenty_failures_at_most(fault):
    with ChatServer(only=fault, stall_s=0.4) as server:
        asking = client(server, attempts=1, timeout_s=0.2)
        with pytest.raises(EnvironmentFault, match="calls in a row failed") as caught:
            asking.describe_looks([look(letters(number)) for number in range(200)])
    assert caught.value.exit_code == 5
    assert caught.value.code == "E513"
    assert "20 calls" in str(caught.value)
    assert sum(server.faults.values()) <= 20 + 64


def test_a_server_that_is_not_there_is_an_outage_too():
    with ChatServer() as server:
        url = server.url
    asking = VlmServer(url=url, model="m", allow_http=True, attempts=1, timeout_s=0.5)
    with pytest.raises(EnvironmentFault, match="E513"):
        asking.describe_looks([look("mug")])


def test_a_key_that_is_refused_ends_the_build_at_once_and_is_not_repeated(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-12345")
    with ChatServer(only="401") as server, pytest.raises(UsageError, match=r"E507 .*key is refused") as caught:
        client(server).describe_looks([look("mug")])
    assert "canary" not in str(caught.value)
    assert server.headers[0]["authorization"] == "Bearer sk-canary-12345"


@pytest.mark.parametrize("fault", ["prose", "chopped"])
def test_an_answer_that_never_fits_is_a_fault_of_the_subject_after_one_repair(fault):
    with ChatServer(only=fault) as server:
        (answer,) = client(server).describe_looks([look("mug")])
    assert isinstance(answer, Fault)
    assert answer.code == "E223"
    assert sum(server.faults.values()) == 2


def test_a_call_ends_by_its_deadline_though_the_server_goes_on_trickling():
    with ChatServer(only="stall", stall_s=3.0) as server:
        asking = client(server, attempts=1, timeout_s=30.0, deadline_s=0.2)
        with pytest.raises(EnvironmentFault, match=r"no answer within 0\.2 s"):
            asking.describe_looks([look("mug")])


def test_twenty_photographs_go_in_groups_and_come_back_as_one_description():
    with ChatServer() as server:
        (answer,) = client(server, photographs=8).describe_looks([look("mug", 20)])
    assert isinstance(answer, Description)
    assert len(answer.captions) == 20
    assert server.answered["mug"] == 3
    assert {len(word.sample_ids) for word in answer.words if word.origin == "source"} == {20}


def test_photographs_travel_as_bytes_small_and_never_as_names():
    photo = Photo(id="mug/src-1", subject="mug", class_noun="mug", image=np.zeros((900, 1200, 3), np.uint8))
    mask = np.zeros((900, 1200), bool)
    mask[100:800, 100:700] = True
    with ChatServer() as server:
        seen = client(server, max_side=64).look([photo], [mask])
    assert all(
        data.startswith(b"\xff\xd8") and len(data) < 4000 for data in (*seen.scenes.values(), *seen.cutouts.values())
    )
