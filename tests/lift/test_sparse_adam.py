"""Adam by rows: each row is stepped as if it were alone in the optimiser, however seldom it is asked."""

import pytest
import torch

from scene4d.lift.refine.sparse_adam import SparseAdam

RATES = {"places": 0.1, "logits": 0.02}


@pytest.mark.parametrize("beta2", [0.95, 0.98])
def test_every_row_goes_as_torch_adam_takes_it(beta2):
    random = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=random, dtype=torch.float64)
    start = {"places": draw(5, 2, 3), "logits": draw(5)}
    adam = SparseAdam({k: x.clone() for k, x in start.items()}, rates=RATES, beta2=beta2)
    alone = [{k: x[i].clone().requires_grad_() for k, x in start.items()} for i in range(5)]
    optimizers = [
        torch.optim.Adam([{"params": [x], "lr": RATES[k]} for k, x in values.items()], betas=(0.8, beta2), eps=adam.eps)
        for values in alone
    ]
    for step in range(12):
        rows = torch.tensor([i for i in range(4) if step % (i + 1) == 0])  # the last is never asked
        grads = {k: draw(len(rows), *x.shape[1:]) for k, x in start.items()}
        damping = 1 - step / 20
        adam.update(rows, grads, damping=damping)
        for k, i in enumerate(rows.tolist()):
            for name, x in alone[i].items():
                x.grad = grads[name][k].clone()
            for group, rate in zip(optimizers[i].param_groups, RATES.values(), strict=True):
                group["lr"] = rate * damping
            optimizers[i].step()
    for name, values in adam.values.items():
        torch.testing.assert_close(values, torch.stack([x[name].detach() for x in alone]), rtol=0, atol=2e-6)
        assert torch.equal(values[4], start[name][4]) and not torch.equal(values[3], start[name][3])
    leaves = adam.leaves(torch.tensor([2, 0]))
    assert leaves["logits"].requires_grad and torch.equal(leaves["logits"].detach(), adam.values["logits"][[2, 0]])
