"""One rank of the tests of training on several: what it finds it writes to FOLDER, rank by rank; the test compares."""

import os
import signal
import sys
from pathlib import Path

import torch
from toy_training import batch_at, toy_net, toy_train

from scene4d.errors import ConfigError, Scene4DError
from scene4d.train.checkpoint import load_tensors, save_tensors
from scene4d.train.distributed import num_ranks, rank, rank_zero_first, share_of, torchrun_group


class PowerCutError(Exception):
    pass


def cut_at(stop_at):
    def batches(step):
        if step == stop_at:
            raise PowerCutError
        return batch_at(step)

    return batches


def laws(folder):
    at = lambda name: folder / name
    keep = lambda net, name, **state: save_tensors(at(f"{name}.{rank()}.safetensors"), net.state_dict(), state=state)
    for kind in ("copies", "parts"):
        shard = kind == "parts"
        # Ranks that begin with other weights take those of rank 0.
        net = toy_net(seed=1 + rank())
        keep(net, kind, **toy_train(net, at(kind), shard=shard))
        parts = [p.to_local().numel() for p in net.blocks[0].parameters() if hasattr(p, "to_local")]
        try:
            toy_train(toy_net(), at(f"{kind} cut"), shard=shard, batches=cut_at(9))
        except PowerCutError:
            net = toy_net(seed=7)
            toy_train(net, at(f"{kind} cut"), shard=shard)
            keep(net, f"{kind} cut", parts=sum(parts))
        # A loss that is not finite on one rank: all skip that step.
        net, called = toy_net(), []
        bad = lambda called=called: float("nan") if called.append(0) or (len(called) == 6 and rank() == 1) else 1.0
        keep(net, f"{kind} nan", **toy_train(net, at(f"{kind} nan"), scale=bad, shard=shard))
    net = toy_net()
    keep(net, "uneven", **toy_train(net, at("uneven"), batches=lambda step: batch_at(step, rows=7)))
    with rank_zero_first():
        found = at("made").exists()
        at("made").touch()
    try:
        share_of(torch.zeros(1, 2))
    except ConfigError as error:
        keep(net, "words", found=found, ranks=num_ranks(), error=error.line())
    stopping(folder)


def stopping(folder):
    """A signal to one rank stops both after the same step."""

    def batches(step):
        if step == 5 and rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch_at(step)

    try:
        toy_train(toy_net(), folder / "stop", batches=batches)
    except SystemExit as stop:
        step = load_tensors(folder / "stop" / "checkpoint.safetensors")[1]["step"]
        save_tensors(folder / f"stop.{rank()}.safetensors", {}, state={"code": stop.code, "step": step})


def death(folder):
    """Rank 1 is killed in the middle."""

    def batches(step):
        if step == 6 and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return batch_at(step)

    toy_train(toy_net(), folder / "death", batches=batches)


if __name__ == "__main__":
    torch.set_num_threads(1)
    try:
        with torchrun_group(timeout_s=60):
            {"laws": laws, "death": death}[sys.argv[1]](Path(sys.argv[2]))
    except Scene4DError as error:
        print(error.line(), file=sys.stderr)
        sys.exit(error.exit_code)
