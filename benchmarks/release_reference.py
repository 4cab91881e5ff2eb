"""What Safe Delta's release computes for one matrix, written anew from its description: slow on purpose.

The released class flattens row by row and sorts without a stable order, so its result depends on the device.
Here the sort is stable. Ties between columns are taken by (saliency, column, row), or row by row as the
release flattens (``by_rows``, which is what is timed); without ties between columns both are the same.
"""

from __future__ import annotations

import torch


def factor(H: torch.Tensor, percdamp: float = 0.01) -> torch.Tensor:
    """Upper triangular U with inverse(H damped by its mean diagonal) = U^T U, in float32."""
    H = H.float().clone()
    dead = H.diagonal() == 0
    H[dead, dead] = 1.0
    index = torch.arange(H.shape[0])
    H[index, index] += percdamp * H.diagonal().mean()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(H))
    return torch.linalg.cholesky(inverse, upper=True)


def adjust(
    aligned: torch.Tensor,
    tuned: torch.Tensor,
    U: torch.Tensor,
    s: float,
    *,
    blocksize: int = 2048,
    sub: int = 4,
    compensation: bool = True,
    mask: torch.Tensor | None = None,
    by_rows: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The edited weights (out, in) and the admitted entries, block by block and four columns at a time.

    Args:
        mask: Entries to admit, instead of those the release's rule selects.
        by_rows: Flatten as the release does.
    """
    W, tuned = aligned.to(U.dtype).clone(), tuned.to(U.dtype)
    rows, width = W.shape
    admitted = torch.zeros(rows, width, dtype=torch.bool)
    for start in range(0, width, blocksize):
        stop = min(start + blocksize, width)
        count = stop - start
        block, goal, factor_ = W[:, start:stop].clone(), tuned[:, start:stop], U[start:stop, start:stop]
        # Contiguous: torch sums a broadcast view in another order, and its mean is off in the sixth digit.
        salience = (1.0 / factor_.diagonal() ** 2).unsqueeze(0).expand(rows, count).contiguous()
        if mask is None:
            cost = (goal - block) ** 2 / factor_.diagonal() ** 2
            order = torch.argsort((salience if by_rows else salience.T).flatten(), stable=True)
            order = order[: -int(0.15 * rows * count)] if int(0.15 * rows * count) else order[:0]
            running = (cost if by_rows else cost.T).flatten()[order].cumsum(0)
            threshold = salience.mean() * (s / 2) * (rows / 4096)
            chosen = torch.zeros(rows * count, dtype=torch.bool)
            chosen[order[running <= threshold]] = True
            admitted[:, start:stop] = (
                chosen.reshape(rows, count) if by_rows else chosen.reshape(count, rows).T
            )
        else:
            admitted[:, start:stop] = mask[:, start:stop]
        errors = torch.zeros_like(block)
        result = block.clone()
        for first in range(0, count, sub):
            last = min(first + sub, count)
            here = block[:, first:last]
            forced = torch.where(admitted[:, start + first : start + last], goal[:, first:last], here)
            result[:, first:last] = forced
            error = (here - forced) / factor_.diagonal()[first:last]
            if compensation:
                block[:, last:] -= error @ factor_[first:last, last:]
            errors[:, first:last] = error
        W[:, start:stop] = result
        if compensation:
            W[:, stop:] -= errors @ U[start:stop, stop:]
    return W, admitted
