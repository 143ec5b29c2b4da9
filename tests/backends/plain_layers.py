"""Layers written out for one row at a time, for tests of the convolutional backends."""

import torch


def random_states(count=3, batch=3, frames=23, dim=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, frames, dim)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def randomised(module, seed=1):
    """Give every parameter and statistic of ``module`` a random value, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.dtype == torch.float64:
                noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float64)
                tensor.copy_(noise + 0.5 if name.endswith("running_var") else (noise - 0.5) * 0.6)
    return module


def batch_norm(norm, x):
    """Evaluation-mode batch norm of (C, ...)."""
    shape = (-1, *[1] * (x.dim() - 1))
    y = (x - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + norm.eps).sqrt()
    return y if norm.weight is None else y * norm.weight.view(shape) + norm.bias.view(shape)


def convolution(conv, x, dilation=1, padding=0):
    """Convolution over time of (C, T), a sum over kernel positions for every frame."""
    x = torch.nn.functional.pad(x, (padding, padding))
    width = conv.weight.shape[2]
    frames = []
    for start in range(x.shape[1] - dilation * (width - 1)):
        total = conv.bias.clone()
        for k in range(width):
            total += conv.weight[:, :, k] @ x[:, start + k * dilation]
        frames.append(total)
    return torch.stack(frames, dim=1)


def conv_relu_norm(layer, x, dilation=1, padding=0):
    return batch_norm(layer.norm, convolution(layer.conv, x, dilation, padding).clamp(min=0))


def mean_and_deviation(x, epsilon=1e-7):
    """Mean and sqrt(unbiased variance + epsilon) over the last axis, by sums."""
    count = x.shape[-1]
    mean = x.sum(-1) / count
    variance = ((x - mean.unsqueeze(-1)) ** 2).sum(-1) / (count - 1)
    return mean, (variance + epsilon).sqrt()


def check_padding(backend, states, frames):
    """Rows filled up with NaN give what each of them gives alone."""
    padded = [state.clone() for state in states]
    for state in padded:
        for row, count in enumerate(frames):
            state[row, count:] = float("nan")
    with torch.no_grad():
        alone = torch.cat(
            [backend([s[row : row + 1, :n] for s in states]) for row, n in enumerate(frames)]
        )
        torch.testing.assert_close(backend(padded, frames), alone, atol=1e-10, rtol=1e-10)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())
