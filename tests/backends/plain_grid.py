"""Networks over layers and frames written out for one row, channels first: x is (C, N, T)."""

import torch
from plain_layers import batch_norm


class FrameMean(torch.nn.Module):
    """Stands in for the pooling over time, which works in single precision."""

    def forward(self, x, frames=None):
        rows = [row[:n] for row, n in zip(x, frames or [x.shape[1]] * len(x), strict=True)]
        return torch.stack([row.mean(0) for row in rows])


def matrix(layer, x):
    """A Linear over channels of (C, ...)."""
    y = torch.einsum("oi,i...->o...", layer.weight, x)
    return y if layer.bias is None else y + layer.bias.view(-1, *[1] * (x.dim() - 1))


def grid_convolution(conv, x, dilation=1):
    """Sum over kernel positions; whatever lies beyond the grid is zero."""
    _, layers, frames = x.shape
    high, wide = conv.weight.shape[2:]
    top, left = dilation * (high // 2), dilation * (wide // 2)
    x = torch.nn.functional.pad(x, (left, left, top, top))
    total = conv.bias.view(-1, 1, 1).expand(-1, layers, frames).clone()
    for a in range(high):
        for b in range(wide):
            n, t = a * dilation, b * dilation
            total += torch.einsum(
                "oi,int->ont", conv.weight[:, :, a, b], x[:, n : n + layers, t : t + frames]
            )
    return total


def layer_pool(pool, x):
    """Grid (C, N, T) to sequence (T, R), frame by frame and head by head."""
    x = matrix(pool.input, batch_norm(pool.input_norm, x))
    channels, _, frames = x.shape
    width = channels // pool.heads
    rows = []
    for t in range(frames):
        parts = []
        for h in range(pool.heads):
            latent = x[h * width : (h + 1) * width, :, t]

            def excite(z, h=h):
                hidden = (z @ pool.squeeze_weight[h] + pool.squeeze_bias[h, 0]).clamp(min=0)
                return hidden @ pool.excite_weight[h] + pool.excite_bias[h, 0]

            scores = torch.sigmoid(excite(latent.mean(0)) + excite(latent.max(0).values))
            parts.append((latent * scores).max(1).values)
        rows.append(matrix(pool.output, torch.cat(parts)))
    return batch_norm(pool.output_norm, torch.stack(rows, dim=1)).T
