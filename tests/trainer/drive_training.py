"""Runs trainings in forked children of one process that has everything imported, and kills them where it is told to.

Reads orders as JSON lines: corpus, base, output, recipe, settings; `at` is the micro-step (from 1) before which the
child dies by SIGKILL (`how: kill`) or is asked to stop (`how: stop`). Answers with the child's exit status.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from transformers.utils import logging as quiet

from pipelines import backbones
from trainer import batches, loop, publishing, trainable, trained_token
from trainer.job import Job
from trainer.recipes import load_recipe

torch.set_num_threads(1)
quiet.disable_progress_bar()
# imported before the children are forked, or each would import it again
IMPORTED = (batches, loop, publishing, trainable, trained_token, load_recipe("dreammix"), backbones.load(sys.argv[1]))


def run(order: dict[str, Any]) -> None:
    passed = 0

    def count(*_: Any) -> None:
        nonlocal passed
        passed += 1
        if passed == order.get("at"):
            if order["how"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt

    with Job.open(
        order["corpus"], order["recipe"], order["base"], Path(order["output"]), settings=order["settings"],
        bank=order["bank"],
    ) as job:  # fmt: skip
        job.backbone.unet.register_forward_pre_hook(count)
        job.run(lambda *_: None)


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            run(json.loads(line))
            status = 0
        except KeyboardInterrupt:
            status = 130
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, state = os.waitpid(child, 0)
    print(json.dumps(os.waitstatus_to_exitcode(state)), flush=True)
